"""`rayfunnel events export`: every event of the span once, in a folder that is complete, as input for training."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
import typer
import yaml

from cluster.valkey import ValkeyConfig, ValkeySupervisor
from deployments.assembly import stored_events
from deployments.errors import DataError, StoreUnavailable
from deployments.store.base import StoreConfig
from deployments.store.events import Event, Histories
from deployments.store.memory import MemoryStore
from deployments.store.redis import RedisStore
from graphs.command_line.event_commands import point_in_time
from graphs.commands import events_export
from graphs.commands.events_export import FILE, export, write_events
from graphs.data.dataset import load_dataset
from graphs.data.histories import stored_histories
from tests.support.paths import ROOT

T0 = 1_700_000_000.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeySupervisor]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    supervisor = ValkeySupervisor(ValkeyConfig(port=port, data_dir=str(tmp_path_factory.mktemp("valkey"))))
    supervisor.start()
    yield supervisor
    supervisor.stop()


@pytest.fixture
def config(server: ValkeySupervisor) -> StoreConfig:
    """Of an empty store."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    return StoreConfig(redis_url=server.url)


def in_store(config: StoreConfig, call: Callable[[RedisStore], Any]) -> Any:
    async def run() -> Any:
        store = RedisStore(config)
        try:
            return await call(store)
        finally:
            await store.close()

    return asyncio.run(run())


def event(n: int, **fields: Any) -> Event:
    columns = {"user_id": f"u{n % 7}", "item_id": f"i{n % 11}", "event_type": "view", "timestamp": T0 + n}
    return Event(**columns | {"event_id": f"e{n}"} | fields)


def rows(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / FILE).to_pylist()


def test_an_export_has_each_event_of_the_span_field_by_field(
    config: StoreConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [event(n) for n in range(700)]
    events[20] = event(20, weight=-0.25, request_id="r 1", event_type="Größe")
    events[30] = event(30, event_id=f"history-{T0 + 30!r}")
    in_store(config, lambda store: store.record(events))
    export(config, T0 + 10, T0 + 500, str(tmp_path / "out"))
    found = sorted(rows(tmp_path / "out"), key=lambda row: row["timestamp"])
    assert [row["timestamp"] for row in found] == [T0 + n for n in range(10, 500)]
    assert found[0] == {
        "user_id": "u3",
        "item_id": "i10",
        "event_type": "view",
        "timestamp": T0 + 10,
        "weight": None,
        "event_id": "e10",
        "request_id": None,
    }
    assert found[10] | {"weight": -0.25, "request_id": "r 1", "event_type": "Größe"} == found[10]
    assert found[20]["event_id"] is None, "seeding made it of the timestamp: events of other items may have it too"
    assert capsys.readouterr().out == (
        f"{tmp_path / 'out'}: 490 events of 7 users, from 2023-11-14T22:13:30Z to 2023-11-14T22:21:40Z\n"
        "the next export: --since 2023-11-14T22:21:40Z\n"
    )


def test_exports_that_follow_each_other_have_every_event_once(config: StoreConfig, tmp_path: Path) -> None:
    in_store(config, lambda store: store.record([event(n) for n in range(300)]))
    for part, (first, last) in enumerate([(0, 100), (100, 101), (101, 1000)]):
        export(config, T0 + first, T0 + last, str(tmp_path / str(part)))
    found = [row["event_id"] for part in range(3) for row in rows(tmp_path / str(part))]
    assert sorted(found) == sorted(f"e{n}" for n in range(300))


def test_a_scan_that_gives_users_twice_exports_them_once(
    config: StoreConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_store(config, lambda store: store.record([event(n, user_id=f"u{n}") for n in range(2000)]))
    run, scans = RedisStore._run, 0

    async def again(self: RedisStore, commands: Any, *rest: Any, **named: Any) -> Any:
        nonlocal scans
        replies = await run(self, commands, *rest, **named)
        if commands and commands[0][0] == "SCAN":
            scans += 1
            cursor, keys = replies[0]
            replies[0] = cursor, [*keys, *keys[:5], b"rayfunnel:history:u7"]
        return replies

    monkeypatch.setattr(RedisStore, "_run", again)
    export(config, 0, T0 + 1e6, str(tmp_path / "out"))
    assert scans > 2
    assert sorted(row["user_id"] for row in rows(tmp_path / "out")) == sorted(f"u{n}" for n in range(2000))


def test_what_is_exported_trains_and_seeds_without_doubles(
    config: StoreConfig, tmp_path: Path, shop_folder: Path
) -> None:
    first = list(stored_events(stored_histories(load_dataset(str(shop_folder)))))
    seeded = in_store(config, lambda store: store.seed(first, "first"))
    assert seeded > 3000
    posted = [event(n, user_id="u1", item_id=f"i{n}", event_type="purchase") for n in range(50)]
    posted.append(event(50, user_id="u2", item_id="i3", event_type="like", weight=0.9))
    in_store(config, lambda store: store.record(posted))
    export(config, 0, T0 + 1e6, str(tmp_path / "out"))
    shutil.copy(shop_folder / "items.parquet", tmp_path / "out")
    dataset = load_dataset(str(tmp_path / "out"))
    assert len(dataset.interactions) == seeded + 51
    histories = stored_histories(dataset)
    assert histories.column("weight").null_count == len(histories) - 1
    again = list(stored_events(histories))
    assert in_store(config, lambda store: store.seed(again, "second")) == 0
    assert in_store(config, lambda store: store.seed([*again, event(99)], "third")) == 1


def test_an_existing_folder_is_refused_and_left_alone(config: StoreConfig, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"out exists; name a new folder, so that no export is overwritten"):
        export(config, 0, T0, str(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        export(StoreConfig(port=1), 0, T0, str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_leaves_no_folder_that_looks_complete(config: StoreConfig, tmp_path: Path) -> None:
    in_store(config, lambda store: store.record([event(n, user_id=f"u{n}") for n in range(1000)]))
    args = {"artifact": "x", "store": {"redis_url": config.redis_url}}
    application = {"name": "r", "import_path": "graphs.recommendation:build", "args": args}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump({"applications": [application]}))
    slow = (
        "import sys, time, pyarrow.parquet as pq\n"
        "close = pq.ParquetWriter.close\n"
        "def wait(self):\n    close(self)\n    print('written', flush=True)\n    time.sleep(600)\n"
        "pq.ParquetWriter.close = wait\n"
        f"sys.argv = ['rayfunnel', 'events', 'export', '--since', '0', '--config', {str(tmp_path / 'serve.yaml')!r}, "
        f"'--out', {str(tmp_path / 'out')!r}]\n"
        "from graphs.__main__ import main\nmain()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", slow], stdout=subprocess.PIPE, env=environment, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    export(config, 0, T0 + 1e6, str(tmp_path / "out"))
    assert len(rows(tmp_path / "out")) == 1000


async def test_events_are_written_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphs.commands.events_export.ROWS", 100)
    store = MemoryStore(StoreConfig())
    await store.record([event(n, user_id=f"u{n // 10}") for n in range(1000)])
    await write_events(store, 0, T0 + 1e6, tmp_path / FILE)
    written = pq.ParquetFile(tmp_path / FILE).metadata
    assert (written.num_rows, written.num_row_groups) == (1000, 10)


async def test_an_export_without_events_can_be_read(tmp_path: Path) -> None:
    found = await write_events(MemoryStore(StoreConfig()), 0, T0, tmp_path / FILE)
    assert (found.events, pq.read_table(tmp_path / FILE).num_rows) == (0, 0)


def test_a_point_in_time_is_written_in_three_ways() -> None:
    assert point_in_time("1700000000.5", "--since") == 1_700_000_000.5
    assert point_in_time("2023-11-14T22:13:20Z", "--since") == T0
    assert point_in_time("2023-11-14T22:13:20", "--since") == T0
    assert point_in_time("2023-11-14T23:13:20+01:00", "--since") == T0
    assert point_in_time("20231114", "--since") == point_in_time("2023-11-14", "--since") == 1_699_920_000
    assert point_in_time("2d", "--since") == pytest.approx(time.time() - 172_800, abs=60)
    for wrong in ("", "1700000000000", "-1", "2d ago", "nan", "2200-01-01"):
        with pytest.raises(typer.BadParameter):
            point_in_time(wrong, "--since")


def test_users_without_events_in_the_span_cost_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    columns = events_export._columns

    def counted(histories: Histories) -> pa.RecordBatch:
        made.append(len(histories.timestamp_E))
        return columns(histories)

    monkeypatch.setattr(events_export, "_columns", counted)

    class Idle(MemoryStore):
        async def all_histories(self, since: float, until: float) -> AsyncIterator[Histories]:
            for n in range(100):
                found = [] if n else [event(1)]
                yield Histories.decode([f"u{n}"], [len(found)], [e.member() for e in found], [T0 for _ in found])

    done = asyncio.run(write_events(Idle(StoreConfig()), T0, T0 + 10, tmp_path / FILE))
    assert (done.events, done.users, made) == (1, 1, [1])
    assert len(rows(tmp_path)) == 1
