"""Writes an artifact, for training and packaging."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from deployments.artifact import version_lock
from deployments.artifact.reader import MANIFEST, SCHEMA_VERSION, Artifact, Manifest, sha256
from deployments.errors import ArtifactError

KEPT = 3
"""Newest versions that are always kept: one to go back to, and one for readers that are opening it."""


class ArtifactWriter:
    """Writes an artifact to `directory`; use as a context manager, one writer per directory at a time.

    The files gather in a hidden sibling, and `directory` is a relative link to the finished folder:

        artifacts/movielens -> .movielens.versions/20260131T120000000000-0123456789abcdef

    Leaving the block swaps the link in one rename, so a reader opens the old artifact or the new one, both complete.
    Older versions are removed, but for the KEPT newest and those that a process has open (version_lock.py). An
    exception inside the block, or a crash, leaves `directory` unchanged; the next writer removes the files of a crash.
    (If `directory` is a real folder with an artifact, such as a copy, it is moved away first; until the rename there is
    none.)

    `metrics`, `gates` and `settings` are plain attributes and may be set until the block ends.

    Raises:
        ArtifactError: on entry, if `directory` exists and is not an artifact, or another process writes to it.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        settings: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
    ) -> None:
        self.directory = Path(os.path.abspath(Path(directory).expanduser()))
        self.settings, self.metrics = settings or {}, metrics or {}
        self._store = self.directory.with_name(f".{self.directory.name}.versions")
        self._partial = self._store / "partial"
        self.gates: dict[str, dict[str, Any]] = {}
        self._derived: set[str] = set()
        self._lock: int | None = None

    def __enter__(self) -> Self:
        target = self.directory
        if target.exists() and not (target / MANIFEST).is_file() and (not target.is_dir() or any(target.iterdir())):
            raise ArtifactError(f"artifact {target}: something else is there; choose another folder, or remove it")
        self._store.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = version_lock.write(self._store)
        except BlockingIOError:
            raise ArtifactError(
                f"artifact {target}: another process is writing it; wait for its end, or choose another folder"
            ) from None
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir()
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
        """The path for the file `name`, for writers of other formats."""
        return self._partial / name

    def derived(self, name: str) -> Path:
        """The path for a file that is derived from the model: it does not change the model version."""
        self._derived.add(name)
        return self.file(name)

    def copy_from(self, artifact: Artifact) -> None:
        """Copies all of another artifact, to add derived files and gates; the model version stays."""
        manifest = artifact.manifest
        for name in manifest.every_file():
            shutil.copyfile(artifact.path(name), self.file(name))
        self._derived |= manifest.derived.keys()
        self.settings, self.metrics, self.gates = manifest.settings, manifest.metrics, dict(manifest.gates)

    def preview(self) -> Artifact:
        """The artifact as written so far, for its evaluation. Valid inside the block."""
        return Artifact(self._partial, self._manifest())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)
            if not any(self._store.iterdir()):
                self._store.rmdir()
            if self._lock is not None:
                os.close(self._lock)

    def _manifest(self) -> Manifest:
        digests = {path.name: sha256(path) for path in sorted(self._partial.iterdir())}
        draft = Manifest(
            schema_version=SCHEMA_VERSION,
            model_version="",
            files={name: digest for name, digest in digests.items() if name not in self._derived},
            derived={name: digest for name, digest in digests.items() if name in self._derived},
            gates=self.gates,
            created=datetime.now(UTC),
            metrics=self.metrics,
            settings=self.settings,
        )
        return draft.model_copy(update={"model_version": draft.content_hash()})

    def _finish(self) -> None:
        manifest = self._manifest()
        self.json(MANIFEST, manifest.model_dump(mode="json"))
        name = f"{manifest.created:%Y%m%dT%H%M%S%f}-{manifest.model_version}"
        finished = self._partial.rename(self._store / name)
        link = self._store / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(Path(self._store.name) / name)
        if self.directory.is_dir() and not self.directory.is_symlink():
            self.directory.rename(self._store / f"{name}-replaced")
        link.replace(self.directory)
        self._remove_old(finished)

    def _remove_old(self, finished: Path) -> None:
        # Names begin with the time of writing. What was moved away has the time of `finished`, and is older.
        others = sorted((path for path in self._store.iterdir() if path != finished), reverse=True)
        for path in others[KEPT - 1 :]:
            try:
                lock = version_lock.take(path / MANIFEST)
            except FileNotFoundError:  # left by a crash
                shutil.rmtree(path, ignore_errors=True)
                continue
            except OSError:  # not ours to write
                continue
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)  # what can't be removed is tried again by the next writer
                os.close(lock)
