"""The folder of Evidently reports: runs `monitoring.drift.evidently_report` as a process and keeps the last reports."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from monitoring.drift.drift_config import EvidentlyReportConfig
from monitoring.drift.histograms import Columns
from monitoring.drift.reference import to_table

log = logging.getLogger("rayfunnel.drift")

LIVE_FILE = "live.parquet"
"""In the folder: the live rows of the last report; `python -m graphs reference` makes a reference of them."""

_NAME = re.compile(r"drift-\d{8}T\d{6}")


class EvidentlyReports:
    """`reference_file`: the rows that live rows are compared with. `folder`: made with the first report."""

    def __init__(self, reference_file: Path, folder: Path, config: EvidentlyReportConfig) -> None:
        self._reference_file, self.folder, self._config = reference_file, folder, config
        self.error = ""
        """Why the last report failed; empty: it did not."""

    async def make(self, recent: Columns) -> None:
        """Makes a report of `recent` rows. A failure is logged and kept in `error`: verdicts need no reports."""
        try:
            await self._run(recent)
            self.error = ""
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"
            log.warning("no deep drift report: %s", self.error)

    async def html(self, name: str) -> str | None:
        """The HTML of a report; None if there is no report of that name."""
        path = self.folder / f"{name}.html"
        if not _NAME.fullmatch(name) or not path.is_file():
            return None
        return await asyncio.to_thread(path.read_text, "utf-8")

    def names(self) -> list[str]:
        """Names of the reports, newest first."""
        return sorted((p.stem for p in self.folder.glob("drift-*.html") if _NAME.fullmatch(p.stem)), reverse=True)

    async def _run(self, recent: Columns) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        live = self.folder / LIVE_FILE
        pq.write_table(to_table(recent), live.with_suffix(".partial"))
        live.with_suffix(".partial").replace(live)
        out = self.folder / f"drift-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
        arguments = (str(self._reference_file), str(live), str(out), str(self._config.rows))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "monitoring.drift.evidently_report", *arguments),
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, stderr = await asyncio.wait_for(process.communicate(), self._config.timeout_s)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        if process.returncode:
            raise RuntimeError(stderr.decode(errors="replace").strip().rsplit("\n", 1)[-1])
        for old in self.names()[self._config.keep :]:
            (self.folder / f"{old}.html").unlink()
            (self.folder / f"{old}.json").unlink(missing_ok=True)
