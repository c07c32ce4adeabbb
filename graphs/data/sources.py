"""Finds the tables of a data set: files or folders of parts, on this machine or at any fsspec URI."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import fsspec
import pyarrow.fs as pafs

from deployments.errors import DataError
from graphs.data.data_file import INTERACTIONS, TABLES, DataConfig, read_data_config
from graphs.data.findings import Findings, listed, near

Format = Literal["parquet", "csv", "json"]

ENDINGS: Mapping[str, Format] = {
    "parquet": "parquet",
    "pq": "parquet",
    "csv": "csv",
    "tsv": "csv",
    "jsonl": "json",
    "ndjson": "json",
    "json": "json",
}
COMPRESSED = ("gz", "bz2", "zst")
"""Second endings of text files."""

TAKEN = "Parquet, CSV or JSON lines (.parquet, .csv, .csv.gz, .jsonl, …), or a folder of such parts"
CONFIG_FILE = "data.yaml"

_LIKELY = {
    "interactions": ("events", "ratings", "clicks", "views", "transactions", "orders", "log", "logs", "train"),
    "items": ("products", "movies", "articles", "catalog", "catalogue", "books", "item_features"),
    "users": ("customers", "members", "user_features"),
}


@dataclass(frozen=True, slots=True)
class Source:
    """One table: its parts, in the order of their names."""

    shown: str
    """Its name in sentences."""
    filesystem: pafs.FileSystem
    base: str
    """Folder of hive partitions; of a single file its own."""
    files: Sequence[str]
    format: Format


class Located(NamedTuple):
    """The tables of a data set, and what its data.yaml says."""

    name: str
    config: DataConfig
    sources: Mapping[str, Source]


def locate(data: str, columns: str, findings: Findings) -> Located:
    """The tables of `data`: a folder, a file of events, or a data.yaml; a path or a URI. `columns`: as `--columns`.

    Raises:
        DataError: naming what is missing or ambiguous, what there is, and the remedy.
    """
    place = _Place.at(data)
    kind = place.info().type
    if kind == pafs.FileType.NotFound:
        raise DataError(
            f"{data} does not exist; --data takes `movielens`, a folder with interactions, or a file of them"
        )
    if kind == pafs.FileType.Directory:
        folder, config = place, DataConfig()
        if folder.join(CONFIG_FILE).info().type == pafs.FileType.File:
            config = folder.join(CONFIG_FILE).config()
    elif data.endswith((".yaml", ".yml")):
        folder, config = place.parent(), place.config()
    else:
        config = DataConfig().with_columns(columns)
        return Located(place.name.split(".")[0], config, {INTERACTIONS: _source(place, place.name, findings)})
    config = config.with_columns(columns)
    return Located(folder.name, config, _sources(folder, config, findings))


def file_format(name: str) -> Format | None:
    """The format that a file's name says; None: no known one."""
    parts = name.lower().split(".")
    if len(parts) > 2 and parts[-1] in COMPRESSED:
        parts.pop()
    return ENDINGS.get(parts[-1]) if len(parts) > 1 else None


@dataclass(frozen=True, slots=True)
class _Place:
    filesystem: pafs.FileSystem
    path: str

    @classmethod
    def at(cls, data: str) -> _Place:
        if "://" not in data:
            return cls(pafs.LocalFileSystem(), data.rstrip("/") or data)
        try:
            filesystem, path = fsspec.core.url_to_fs(data.rstrip("/"))
        except (ImportError, ValueError, OSError) as error:
            raise DataError(f"{data} can't be opened: {' '.join(str(error).split())}") from None
        return cls(pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path)

    @property
    def name(self) -> str:
        return posixpath.basename(posixpath.abspath(self.path) if self.path in (".", "..") else self.path)

    def join(self, path: str) -> _Place:
        if "://" in path or path.startswith("/"):
            return _Place.at(path)
        return _Place(self.filesystem, posixpath.join(self.path, path))

    def parent(self) -> _Place:
        return _Place(self.filesystem, posixpath.dirname(self.path) or ".")

    def info(self) -> pafs.FileInfo:
        try:
            return self.filesystem.get_file_info(self.path)
        except Exception as error:  # each fsspec library has errors of its own: no credentials, no network
            raise DataError(f"{self.path} can't be read: {' '.join(str(error).split())}") from None

    def list(self, recursive: bool = False) -> list[pafs.FileInfo]:
        try:
            found = self.filesystem.get_file_info(pafs.FileSelector(self.path, recursive=recursive))
        except Exception as error:
            raise DataError(f"{self.path} can't be listed: {' '.join(str(error).split())}") from None
        return sorted(found, key=lambda each: str(each.path))

    def config(self) -> DataConfig:
        try:
            with self.filesystem.open_input_stream(self.path) as stream:
                return read_data_config(stream.read(), self.name)
        except OSError as error:
            raise DataError(f"{self.path} can't be read: {error.strerror or error}") from None


def _sources(folder: _Place, config: DataConfig, findings: Findings) -> dict[str, Source]:
    found: dict[str, Source] = {}
    listing = folder.list()
    for table in TABLES:
        if path := config.path(table):
            place = folder.join(path)
            if place.info().type == pafs.FileType.NotFound:
                close = near(path, [posixpath.basename(each.path) for each in listing])
                remedy = f"did you mean {close}?" if close else "paths are read from the folder of data.yaml"
                raise DataError(f"{CONFIG_FILE}: {table} = {path!r} does not exist; {remedy}")
            found[table] = _source(place, path.rstrip("/"), findings)
            continue
        names = [posixpath.basename(each.path) for each in listing if _may_be(each, table)]
        if len(names) > 1:
            raise DataError(
                f"{folder.path} has {' and '.join(names)}; remove all but one, or name it in {CONFIG_FILE}: "
                f"{table}: {names[0]}"
            )
        if names:
            found[table] = _source(folder.join(names[0]), names[0], findings)
    if INTERACTIONS not in found:
        found[INTERACTIONS] = _whole_folder(folder, listing, found, findings)
    return found


def _may_be(entry: pafs.FileInfo, table: str) -> bool:
    """`interactions.csv`, a folder `interactions`, or a folder `interactions.parquet`, as Spark calls it."""
    name = posixpath.basename(entry.path)
    stem = name.split(".")[0]
    return stem == table and (file_format(name) is not None or (entry.type == pafs.FileType.Directory and stem == name))


def _source(place: _Place, shown: str, findings: Findings) -> Source:
    if place.info().type != pafs.FileType.Directory:
        if (kind := file_format(place.name)) is None:
            raise DataError(f"{shown} is not read: it should be {TAKEN}")
        return Source(shown, place.filesystem, posixpath.dirname(place.path), [place.path], kind)
    shown = f"{shown}/"
    parts, foreign = _parts(place)
    if not parts:
        there = f"it has {listed(foreign)}" if foreign else "it is empty"
        raise DataError(f"{shown} holds no file that is read ({there}); it should hold {TAKEN.split(', or')[0]}")
    kinds: dict[Format, str] = {}
    for path in parts:
        if kind_of_part := file_format(path):
            kinds.setdefault(kind_of_part, path)
    if len(kinds) > 1:
        names = " and ".join(posixpath.relpath(path, place.path) for path in kinds.values())
        raise DataError(f"{shown} holds files of several formats, such as {names}; keep one format in a folder")
    if foreign:
        findings.note(f"{shown}: ignored: {listed(foreign)}")
    return Source(shown, place.filesystem, place.path, parts, next(iter(kinds)))


def _parts(place: _Place) -> tuple[list[str], list[str]]:
    """The data files below a folder, and other files. Hidden ones, `_SUCCESS` and empty ones are neither."""
    parts: list[str] = []
    foreign: list[str] = []
    for each in place.list(recursive=True):
        name = posixpath.relpath(each.path, place.path)
        hidden = any(part.startswith((".", "_")) for part in name.split("/"))
        if each.type != pafs.FileType.File or hidden or not each.size:
            continue
        (parts if file_format(name) else foreign).append(each.path if file_format(name) else name)
    return parts, foreign


def _whole_folder(
    folder: _Place, listing: Sequence[pafs.FileInfo], others: Mapping[str, Source], findings: Findings
) -> Source:
    """The folder itself as the parts of the interactions, if it looks so: `part-0000.parquet`, or `day=2026-01-01/`."""
    names = [posixpath.basename(each.path) for each in listing]
    names = [name for name in names if not name.startswith((".", "_"))]
    if names and not others and all(name.startswith("part-") or "=" in name for name in names):
        return _source(folder, folder.name, findings)
    likely = [name for name in names if name.split(".")[0].lower() in _LIKELY[INTERACTIONS]]
    likely += [name for name in names if near(name.split(".")[0], TABLES[:1]) and name not in likely]
    remedy = f"name it in {CONFIG_FILE}: interactions: {likely[0] if likely else 'FILE'}"
    raise DataError(
        f"{folder.path} has no interactions.parquet (nor .csv, .jsonl, …, nor a folder interactions); "
        f"it has {listed(names)}; {remedy}"
    )
