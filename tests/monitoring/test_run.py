"""`make monitor`: both programs run on the rendered files; without them the message says what to install."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from monitoring import run
from tests.support.monitors import tool
from tests.support.processes import free_port, wait_for


@pytest.mark.server
def test_both_programs_run_and_are_connected_until_a_signal_ends_them(tmp_path: Path) -> None:
    tool("prometheus")
    tool("prometheus-alertmanager")
    prometheus, alertmanager = free_port(), free_port()
    options = {"prometheus-port": prometheus, "alertmanager-port": alertmanager, "folder": tmp_path}
    options["values"] = Path(run.__file__).parent / "alerts" / "laptop.yaml"
    command = [sys.executable, "-m", "monitoring.run", *(f"--{name}={value}" for name, value in options.items())]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    api = f"http://127.0.0.1:{prometheus}/api/v1"

    def found(path: str, name: str) -> Callable[[], bool]:
        return lambda: name in httpx.get(f"{api}/{path}").text

    try:
        wait_for("Alertmanager", found("alertmanagers", f"127.0.0.1:{alertmanager}/"), within_s=30)
        wait_for("the rules", found("rules", "RayfunnelStoreDown"), within_s=30)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{api}/alertmanagers")


def test_without_the_programs_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["monitoring.run", "--folder", str(tmp_path)])
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run.main() == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "apt-get install prometheus prometheus-alertmanager" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
