"""Prometheus and Alertmanager beside a running application, until Ctrl-C: `make monitor`."""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from monitoring.alerts.__main__ import write
from monitoring.alerts.values import load

INSTALL = "Debian and Ubuntu: apt-get install prometheus prometheus-alertmanager"


class NotInstalled(RuntimeError):
    """A program is missing. One sentence: which, and how to get it."""


def prometheus(port: int) -> list[str]:
    """The command, to run in the folder of its configuration."""
    return [
        _program("prometheus"),
        "--config.file=prometheus.yaml",
        "--storage.tsdb.path=prometheus-data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]


def alertmanager(port: int) -> list[str]:
    """The command, to run in the folder of its configuration; a single Alertmanager, without a cluster."""
    return [
        _program("prometheus-alertmanager", "alertmanager"),
        "--config.file=alertmanager.yaml",
        "--storage.path=alertmanager-data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]


def _program(*names: str) -> str:
    """The first of `names` that is installed; Debian's name of a program may differ from upstream's."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise NotInstalled(f"{names[0]} is not installed. {INSTALL}")
    return found


def run(values: str | None, folder: Path, prometheus_port: int, alertmanager_port: int) -> int:
    """Renders the files into `folder` and runs both programs until one ends or a signal arrives.

    Raises:
        NotInstalled: one of them is missing.
        ValueError: the values are wrong.
    """
    commands = prometheus(prometheus_port), alertmanager(alertmanager_port)
    own = load(values)
    write(own.model_copy(update={"prometheus": own.prometheus.model_copy(
        update={"alertmanagers": [f"127.0.0.1:{alertmanager_port}"]})}), folder)  # fmt: skip
    print(f"Prometheus: http://127.0.0.1:{prometheus_port}/alerts   Alertmanager: http://127.0.0.1:{alertmanager_port}")
    print(f"Files and logs: {folder}; Ctrl-C ends both", flush=True)
    running = []
    try:
        for command in commands:
            with (folder / f"{Path(command[0]).name}.log").open("w") as log:
                running.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log))  # noqa: S603
        while all(process.poll() is None for process in running):
            time.sleep(0.2)
        ended = next(Path(c[0]).name for c, p in zip(commands, running, strict=True) if p.poll() is not None)
        print(f"error: {ended} ended; see {folder / ended}.log", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(20)


def main() -> int:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.run", description=__doc__)
    parser.add_argument("--values", help="your own values, laid over those of monitoring/alerts/values.yaml")
    parser.add_argument("--folder", default="data/monitor", type=Path)
    parser.add_argument("--prometheus-port", type=int, default=9090)
    parser.add_argument("--alertmanager-port", type=int, default=9093)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(args.values, args.folder, args.prometheus_port, args.alertmanager_port)
    except (NotInstalled, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
