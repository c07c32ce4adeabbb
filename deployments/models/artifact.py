"""The artifact: the folder that training writes and serving reads, and nothing else joins them.

It is flat: `manifest.json` beside safetensors, Arrow/Parquet, JSON and index files. No pickle. `Artifact.open` is
strict, so what is served is byte for byte what was evaluated.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.numpy import save_file

from deployments.errors import ArtifactError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
REMEDY = "train one with `python -m graphs train --data movielens --out DIR`, or point `artifact` at a complete one"

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
_DTYPES |= {"I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}


class Manifest(BaseModel):
    """What `manifest.json` holds. `model_version` covers the files, `feature_schema` and `settings`; the time of
    writing, the metrics and what packaging adds are not part of it, so the same model trained twice has one version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int
    model_version: str
    files: dict[FileName, Sha256]
    created: datetime
    derived: dict[FileName, Sha256] = {}
    """Files made from the model: code compiled for a kind of machine, recorded requests. Checked as `files` are."""
    gates: dict[str, dict[str, Any]] = {}
    """Per combination of backend and precision, how its answers compare with the plain model's."""
    metrics: dict[str, Any] = {}
    """The evaluation table it was accepted with."""
    feature_schema: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    """Whatever the trainer has to tell the stages: names of sources, dimensions, …"""

    def content_hash(self) -> str:
        """What `model_version` must be: 16 hex digits of SHA-256 over the canonical JSON of the model's part."""
        part = self.model_dump(mode="json", include={"schema_version", "files", "feature_schema", "settings"})
        return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:16]

    def every_file(self) -> dict[FileName, Sha256]:
        """All that lies beside the manifest."""
        return self.files | self.derived


class Artifact:
    """An opened artifact. `path` names its files; `tensors`, `table` and `json` read them."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.model_version = manifest.model_version

    @classmethod
    def open(cls, uri: str) -> Artifact:
        """Opens and checks every file of the artifact at `uri`: a local path or any fsspec URI.

        A remote one is copied once to the user's cache folder (`$XDG_CACHE_HOME/rayfunnel/artifacts`), under the
        hash of its manifest. A local link is followed here, once: a later swap leaves this object as it is.

        Raises:
            ArtifactError: no artifact there, a missing, extra (local only) or altered file, another schema version.
        """
        if "://" in uri and not uri.startswith("file://"):
            return _open_remote(uri)
        folder = Path(uri.removeprefix("file://")).expanduser().resolve()
        if not (folder / MANIFEST).is_file():
            what = f"has no {MANIFEST}" if folder.is_dir() else "does not exist"
            raise ArtifactError(f"artifact {uri}: the folder {what}; {REMEDY}")
        manifest = _parse(uri, (folder / MANIFEST).read_bytes())
        _check_files(uri, folder, manifest)
        return cls(folder, manifest)

    def path(self, name: str) -> Path:
        """The file `name`.

        Raises:
            ArtifactError: the artifact has no such file.
        """
        if name not in self.manifest.every_file():
            raise ArtifactError(f"artifact {self.folder}: it has no file {name}; {REMEDY}")
        return self.folder / name

    def tensors(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """The arrays of a safetensors file: read-only views of one memory map, shared by the host's processes.

        Format: https://huggingface.co/docs/safetensors (8 bytes of header length, JSON header, raw data).
        """
        data = np.memmap(self.path(name), dtype=np.uint8, mode="r").view(np.ndarray)
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header: dict[str, Any] = json.loads(data[8:start].tobytes())
        header.pop("__metadata__", None)
        tensors = {}
        for key, entry in header.items():
            if entry["dtype"] not in _DTYPES:
                raise ArtifactError(f"artifact {self.folder}: {name}: {key} {entry['dtype']}; store it as F32")
            begin, end = entry["data_offsets"]
            tensors[key] = data[start + begin : start + end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        return tensors

    def table(self, name: str) -> pa.Table:
        """The table of a `.parquet` or an Arrow IPC file; the latter is memory-mapped."""
        path = self.path(name)
        if path.suffix == ".parquet":
            return pq.read_table(path)
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all()

    def json(self, name: str) -> Any:
        """The value of a JSON file."""
        return json.loads(self.path(name).read_bytes())


class ArtifactWriter:
    """Writes an artifact to `directory`; use as a context manager, one writer per directory at a time.

    The files gather in a hidden sibling, and `directory` is a relative link to the finished folder:

        artifacts/movielens -> .movielens.versions/20260131T120000000000-0123456789abcdef

    Leaving the block swaps the link in one rename, so a reader finds the old artifact or the new, never none or a
    half. The one before is kept until the next write, for readers still opening it. An exception inside the block,
    or a crash, leaves `directory` as it was; the next writer clears what a crash left. (Only a real folder that
    holds an artifact, such as a copy, is moved aside first: for that moment there is none.)

    `metrics`, `gates`, `feature_schema` and `settings` are plain attributes and may be set until the block ends.

    Raises:
        ArtifactError: on entry, if `directory` exists and is something else than an artifact.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        feature_schema: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
    ) -> None:
        self.directory = Path(os.path.abspath(Path(directory).expanduser()))
        self.feature_schema, self.settings, self.metrics = feature_schema or {}, settings or {}, metrics or {}
        self._store = self.directory.with_name(f".{self.directory.name}.versions")
        self._partial = self._store / "partial"
        self.gates: dict[str, dict[str, Any]] = {}
        self._derived: set[str] = set()

    def __enter__(self) -> Self:
        there = self.directory
        if there.exists() and not (there / MANIFEST).is_file() and (not there.is_dir() or any(there.iterdir())):
            raise ArtifactError(f"artifact {there}: something else is there; choose another folder, or remove it")
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        return self

    def tensors(self, name: str, tensors: dict[str, npt.NDArray[Any]]) -> None:
        """Writes a safetensors file."""
        save_file({key: np.asarray(value, order="C") for key, value in tensors.items()}, self.file(name))

    def table(self, name: str, table: pa.Table) -> None:
        """Writes `.parquet` as such, any other name as an uncompressed Arrow IPC file."""
        if name.endswith(".parquet"):
            pq.write_table(table, self.file(name))
            return
        with pa.ipc.new_file(str(self.file(name)), table.schema) as sink:
            sink.write_table(table)

    def json(self, name: str, value: Any) -> None:
        """Writes a JSON file; NaN and infinity are ValueErrors."""
        self.file(name).write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")

    def file(self, name: str) -> Path:
        """Where to write the file `name` by other means."""
        return self._partial / name

    def derived(self, name: str) -> Path:
        """Where to write a file that is made from the model and no part of it."""
        self._derived.add(name)
        return self.file(name)

    def keep(self, artifact: Artifact) -> None:
        """Takes over all of another artifact, which keeps its model version; to add to it."""
        manifest = artifact.manifest
        for name in manifest.every_file():
            shutil.copyfile(artifact.path(name), self.file(name))
        self._derived |= manifest.derived.keys()
        self.feature_schema, self.settings = manifest.feature_schema, manifest.settings
        self.metrics, self.gates = manifest.metrics, dict(manifest.gates)

    def preview(self) -> Artifact:
        """The artifact as written so far, to evaluate it before it is finished. Dies with the block."""
        return Artifact(self._partial, self._manifest())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)
            if not any(self._store.iterdir()):
                self._store.rmdir()

    def _manifest(self) -> Manifest:
        digests = {path.name: _sha256(path) for path in sorted(self._partial.iterdir())}
        draft = Manifest(
            schema_version=SCHEMA_VERSION,
            model_version="",
            files={name: digest for name, digest in digests.items() if name not in self._derived},
            derived={name: digest for name, digest in digests.items() if name in self._derived},
            gates=self.gates,
            created=datetime.now(UTC),
            metrics=self.metrics,
            feature_schema=self.feature_schema,
            settings=self.settings,
        )
        return draft.model_copy(update={"model_version": draft.content_hash()})

    def _finish(self) -> None:
        manifest = self._manifest()
        self.json(MANIFEST, manifest.model_dump(mode="json"))
        name = f"{manifest.created:%Y%m%dT%H%M%S%f}-{manifest.model_version}"
        finished = self._partial.rename(self._store / name)
        previous = self.directory.resolve()
        link = self._store / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(Path(self._store.name) / name)
        if self.directory.is_dir() and not self.directory.is_symlink():
            previous = self.directory.rename(self._store / f"{name}-replaced")
        link.replace(self.directory)
        for other in self._store.iterdir():
            if other not in (finished, previous):
                shutil.rmtree(other)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse(uri: str, text: bytes) -> Manifest:
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise ArtifactError(f"artifact {uri}: {MANIFEST} is not JSON ({error}); {REMEDY}") from None
    found = raw.get("schema_version") if isinstance(raw, dict) else None
    if found != SCHEMA_VERSION:
        raise ArtifactError(f"artifact {uri}: schema_version is {found!r}, not {SCHEMA_VERSION}; {REMEDY}")
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"artifact {uri}: {MANIFEST}: {field}: {first['msg']}; {REMEDY}") from None
    if manifest.content_hash() != manifest.model_version:
        raise ArtifactError(f"artifact {uri}: {MANIFEST} was altered after it was written; {REMEDY}")
    return manifest


def _check_files(uri: str, folder: Path, manifest: Manifest) -> None:
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    listed = manifest.every_file()
    for name in sorted(listed.keys() - present):
        raise ArtifactError(f"artifact {uri}: the file {name} is missing; {REMEDY}")
    for name in sorted(present - listed.keys()):
        raise ArtifactError(f"artifact {uri}: {name} does not belong to it; remove that file, or {REMEDY}")
    for name, digest in listed.items():
        if _sha256(folder / name) != digest:
            raise ArtifactError(f"artifact {uri}: the file {name} was altered after it was written; {REMEDY}")


def _open_remote(uri: str) -> Artifact:
    try:
        files, root = fsspec.core.url_to_fs(uri)
        text = files.cat_file(f"{root.rstrip('/')}/{MANIFEST}")
    except FileNotFoundError:
        raise ArtifactError(f"artifact {uri}: there is no {MANIFEST}; {REMEDY}") from None
    except Exception as error:  # every file system has its own exceptions
        raise ArtifactError(f"artifact {uri}: it can't be read ({error}); check the address and the access") from error
    manifest = _parse(uri, text)
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rayfunnel" / "artifacts"
    folder = base / hashlib.sha256(text).hexdigest()[:32]
    if folder.is_dir():
        try:
            return Artifact.open(str(folder))
        except ArtifactError:  # a damaged copy: fetch it again
            shutil.rmtree(folder)
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base, prefix=".partial-") as scratch:
        copy = Path(scratch) / "copy"
        copy.mkdir()
        for name in manifest.every_file():
            try:
                files.get_file(f"{root.rstrip('/')}/{name}", str(copy / name))
            except FileNotFoundError:
                raise ArtifactError(f"artifact {uri}: the file {name} is missing; {REMEDY}") from None
            except Exception as error:
                raise ArtifactError(f"artifact {uri}: {name} can't be copied ({error}); try again") from error
        (copy / MANIFEST).write_bytes(text)
        _check_files(uri, copy, manifest)
        try:
            copy.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same bytes
                raise
    return Artifact(folder, manifest)
