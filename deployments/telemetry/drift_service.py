"""What the drift actor holds: the monitor, and the folder of deep reports. Knows no Ray; in a test it runs as it is.

It has no clock of its own: the ingress replicas send every few seconds, traffic or not, and windows close then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from deployments.artifact.catalogue import Catalogue
from deployments.artifact.reader import Artifact
from monitoring.drift.histograms import Columns
from monitoring.drift.monitor import DriftConfig, DriftMonitor, Sample
from monitoring.drift.reference import FILE, Reference, from_table, to_table

log = logging.getLogger("rayfunnel.drift")

LIVE = "live.parquet"
"""In the folder: the live rows of the last deep report; `python -m graphs reference` makes a reference of them."""

_NAME = re.compile(r"drift-\d{8}T\d{6}")


class DriftService:
    """One per application and code version; a new model comes with a new one, and so with its reference.

    `settings`: a DriftConfig as a dict.
    """

    def __init__(self, artifact: str, settings: Mapping[str, Any]) -> None:
        opened = Artifact.open(artifact)
        self._config = config = DriftConfig.model_validate(settings)
        self._reference_file = opened.path(FILE)
        reference = Reference.of(from_table(opened.table(FILE)))
        self.monitor = DriftMonitor(reference, config, opened.model_version, len(Catalogue.load(opened)), time.time())
        self._folder = Path(config.deep.folder).resolve() / opened.model_version
        self._deep: asyncio.Task[None] | None = None
        self._next_deep = time.monotonic() + config.deep.every_s
        self._deep_error = ""

    async def add(self, sample: Sample) -> dict[str, str]:
        """Counts a sample; returns each signal's verdict."""
        self.monitor.add(sample, time.time())
        if time.monotonic() >= self._next_deep and (self._deep is None or self._deep.done()):
            self._next_deep = time.monotonic() + self._config.deep.every_s
            self._deep = asyncio.ensure_future(self.deepen())
        return self.monitor.verdicts()

    async def report(self) -> dict[str, Any]:
        """What `GET /v1/drift` answers."""
        reports = [{"name": path.stem, "html": f"/drift/{path.stem}"} for path in self._reports()]
        return self.monitor.report(time.time()) | {"reports": reports, "deep_error": self._deep_error or None}

    async def page(self, name: str) -> str | None:
        """The HTML of a deep report; None if there is none of that name."""
        path = self._folder / f"{name}.html"
        if not _NAME.fullmatch(name) or not path.is_file():
            return None
        return await asyncio.to_thread(path.read_text, "utf-8")

    async def deepen(self) -> None:
        """Makes a deep report of the recent rows, in a process of its own."""
        recent = self.monitor.recent()
        if recent is None:
            return
        try:
            await self._run(recent)
            self._deep_error = ""
        except Exception as error:  # the fast tier goes on without
            self._deep_error = f"{type(error).__name__}: {error}"
            log.warning("no deep drift report: %s", self._deep_error)

    async def _run(self, recent: Columns) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        live = self._folder / LIVE
        pq.write_table(to_table(recent), live.with_suffix(".partial"))
        live.with_suffix(".partial").replace(live)
        out = self._folder / f"drift-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
        rows = str(self._config.deep.rows)
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "monitoring.drift.evidently_report",
                str(self._reference_file),
                str(live),
                str(out),
                rows,
            ),
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, complaint = await asyncio.wait_for(process.communicate(), self._config.deep.timeout_s)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        if process.returncode:
            raise RuntimeError(complaint.decode(errors="replace").strip().rsplit("\n", 1)[-1])
        for old in self._reports()[self._config.deep.keep :]:
            old.unlink()
            old.with_suffix(".json").unlink(missing_ok=True)

    def _reports(self) -> list[Path]:
        """Newest first."""
        return sorted((p for p in self._folder.glob("drift-*.html") if _NAME.fullmatch(p.stem)), reverse=True)
