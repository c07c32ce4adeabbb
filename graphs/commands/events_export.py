"""`rayfunnel events export`: the store's events as Parquet that `rayfunnel train --data` takes.

The folder is written beside its name and renamed at the end, so a folder with that name is complete.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from deployments.errors import DataError
from deployments.store.base import Store, StoreConfig
from deployments.store.events import Histories
from deployments.store.redis import RedisStore
from deployments.store.seeding import is_seeded_id

FILE = "interactions.parquet"
ROWS = 100_000
"""Events of a row group, which is what is in memory at a time."""

SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("event_type", pa.string()),
        ("timestamp", pa.float64()),
        ("weight", pa.float64()),
        ("event_id", pa.string()),
        ("request_id", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    events: int
    users: int


def export(config: StoreConfig, since: float, until: float, out: str) -> None:
    """Writes the events with `since` <= timestamp < `until` (Unix seconds) to the new folder `out`, and prints what
    they are, and where the next export begins.

    Raises:
        DataError: `out` exists.
        StoreUnavailable: the store does not answer.
    """
    with _new_folder(Path(out)) as folder:
        written = asyncio.run(_export(config, since, until, folder / FILE))
    print(f"{out}: {written.events:,} events of {written.users:,} users, from {_shown(since)} to {_shown(until)}")
    print(f"the next export: --since {_shown(until)}")


async def _export(config: StoreConfig, since: float, until: float, path: Path) -> Exported:
    store = RedisStore(config)
    try:
        return await write_events(store, since, until, path)
    finally:
        await store.close()


async def write_events(store: Store, since: float, until: float, path: Path) -> Exported:
    """Streams the events to the Parquet file `path`, user after user."""
    events = users = written = 0
    waiting: list[pa.RecordBatch] = []
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        async for histories in store.all_histories(since, until):
            if not len(histories.timestamp_E):  # of a short span most are empty
                continue
            waiting.append(_columns(histories))
            users += int((histories.count_B > 0).sum())
            events += len(histories.timestamp_E)
            if events - written >= ROWS:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting.clear()
                written = events
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))
    return Exported(events, users)


def _columns(histories: Histories) -> pa.RecordBatch:
    """The events as rows of SCHEMA. An id that seeding made of the timestamp is none of the data's."""
    user_ids = [user for user, n in zip(histories.user_ids, histories.count_B.tolist(), strict=True) for _ in range(n)]
    return pa.record_batch(
        [
            user_ids,
            histories.item_ids,
            histories.event_types,
            histories.timestamp_E,
            [float(weight) if weight else None for weight in histories.weights],
            [None if is_seeded_id(event_id) else event_id for event_id in histories.event_ids],
            [request_id or None for request_id in histories.request_ids],
        ],
        schema=SCHEMA,
    )


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` if the body ends without an error, and is gone otherwise."""
    if os.path.lexists(out):
        raise DataError(f"{out} exists; name a new folder, so that no export is overwritten or mixed with another")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield folder
        folder.chmod(0o755)
        for path in (*folder.iterdir(), folder):
            _to_disk(path)
        folder.rename(out)  # fails if a folder with files took the name meanwhile
        _to_disk(out.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _shown(seconds: float) -> str:
    """Unix seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
