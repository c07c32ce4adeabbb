"""Reads an artifact: the folder that training writes and serving reads, and their only connection.

It is flat: `manifest.json` beside safetensors, Arrow/Parquet, JSON and index files; no pickle. `Artifact.open` checks
every file, so the served bytes are the evaluated bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import weakref
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.artifact import version_lock
from deployments.errors import ArtifactError

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
REMEDY = "train one with `python -m graphs train --data movielens --out DIR`, or point `artifact` at a complete one"

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
_DTYPES |= {"I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}


class Manifest(BaseModel):
    """The content of `manifest.json`.

    `model_version` covers the files and `settings`, but not the time of writing, the metrics and the additions of
    packaging. So the same model, trained twice, has one version.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    schema_version: int
    """Version of the artifact's format."""
    model_version: str
    """`content_hash` of the model's part."""
    files: dict[FileName, Sha256]
    """The model's files."""
    created: datetime
    """Time of writing."""
    derived: dict[FileName, Sha256] = {}
    """Files made from the model: code compiled for a kind of machine, recorded requests. Checked as `files` are."""
    gates: dict[str, dict[str, Any]] = {}
    """The parity gate's measurements, per combination of backend and precision; see models/backends/parity_gate.py."""
    metrics: dict[str, Any] = {}
    """The evaluation table with which it was accepted."""
    settings: dict[str, Any] = {}
    """The trainer's settings for the stages: names of sources, dimensions, …"""

    def content_hash(self) -> str:
        """The value of `model_version`: 16 hex digits of SHA-256 over the canonical JSON of the model's part."""
        part = self.model_dump(mode="json", include={"schema_version", "files", "settings"})
        return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:16]

    def every_file(self) -> dict[FileName, Sha256]:
        """Every file beside the manifest, with its SHA-256."""
        return self.files | self.derived


class Artifact:
    """An opened artifact. `path` names its files; `tensors`, `table` and `json` read them."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.model_version = manifest.model_version

    @classmethod
    def open(cls, uri: str, model_version: str = "") -> Artifact:
        """Opens and checks every file of the artifact at `uri`: a local path or any fsspec URI.

        A remote one is copied once to the user's cache folder (`$XDG_CACHE_HOME/rayfunnel/artifacts`), under the
        hash of its manifest. A local link is resolved once, so a later swap does not change this object. No writer
        removes its folder while this object lives.

        Raises:
            ArtifactError: no artifact at `uri`, a missing, extra (local only) or altered file, another schema version,
                another model version than `model_version` (empty: any).
        """
        artifact = _open_remote(uri) if is_remote(uri) else _open_local(uri)
        if model_version not in ("", artifact.model_version):
            raise ArtifactError(
                f"artifact {uri}: its model version is {artifact.model_version}, but args.model_version is "
                f"{model_version}: it was trained again; deploy again with `rayfunnel deploy`, or remove that key"
            )
        return artifact

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


def is_remote(uri: str) -> bool:
    """Whether `uri` is an fsspec URI, and no folder of this machine."""
    return "://" in uri and not uri.startswith("file://")


def local_folder(uri: str) -> Path:
    """The folder of a local `uri`, with its link resolved: one version, whatever is trained later."""
    return Path(uri.removeprefix("file://")).expanduser().resolve()


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse(uri: str, text: bytes) -> Manifest:
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise ArtifactError(f"artifact {uri}: {MANIFEST} is not JSON ({error}); {REMEDY}") from None
    found = raw.get("schema_version") if isinstance(raw, dict) else None
    if found != SCHEMA_VERSION:
        wrong = f"schema_version is {found!r}, not {SCHEMA_VERSION}; another version of rayfunnel wrote it"
        raise ArtifactError(f"artifact {uri}: {wrong}: {REMEDY}")
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
        if sha256(folder / name) != digest:
            raise ArtifactError(f"artifact {uri}: the file {name} was altered after it was written; {REMEDY}")


def _open_local(uri: str) -> Artifact:
    while True:
        folder = local_folder(uri)
        try:
            lock = version_lock.hold(folder / MANIFEST)
            break
        except (FileNotFoundError, NotADirectoryError):
            if local_folder(uri) == folder:  # else it was replaced and removed in between
                what = f"has no {MANIFEST}" if folder.is_dir() else "does not exist"
                raise ArtifactError(f"artifact {uri}: the folder {what}; {REMEDY}") from None
    try:
        manifest = _parse(uri, (folder / MANIFEST).read_bytes())
        _check_files(uri, folder, manifest)
    except BaseException:
        if lock is not None:
            os.close(lock)
        raise
    artifact = Artifact(folder, manifest)
    if lock is not None:
        weakref.finalize(artifact, os.close, lock)
    return artifact


def _open_remote(uri: str) -> Artifact:
    try:
        files, root = fsspec.core.url_to_fs(uri)
        text = files.cat_file(f"{root.rstrip('/')}/{MANIFEST}")
    except FileNotFoundError:
        raise ArtifactError(f"artifact {uri}: there is no {MANIFEST}; {REMEDY}") from None
    except Exception as error:  # each fsspec file system has its own exceptions
        raise ArtifactError(f"artifact {uri}: it can't be read ({error}); check the address and the access") from error
    manifest = _parse(uri, text)
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rayfunnel" / "artifacts"
    folder = base / hashlib.sha256(text).hexdigest()[:32]
    if folder.is_dir():
        try:
            return Artifact.open(str(folder))
        except ArtifactError:  # a damaged copy is fetched again
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
            if not folder.is_dir():  # else another process has copied the same bytes first
                raise
    return Artifact(folder, manifest)
