"""The drift actor's side of drift, without Ray: passes samples to the detector, and starts Evidently reports.

It has no timer: the ingress replicas call every few seconds, with traffic or without, and a call closes a due window.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments.artifact.catalogue import Catalogue
from deployments.artifact.reader import Artifact
from deployments.telemetry.report_folder import EvidentlyReports
from monitoring.drift.detector import DriftDetector, DriftSample
from monitoring.drift.drift_config import DriftConfig
from monitoring.drift.reference import REFERENCE_FILE, Reference, from_table


class DriftServer:
    """One per application and code version: a new model comes with a new server, and so with its own reference.

    `settings`: a DriftConfig as a dict; `model_version`: the only one that it takes; empty: any.
    """

    def __init__(self, artifact: str, settings: Mapping[str, Any], model_version: str = "") -> None:
        # Kept: while it is open, no training removes its folder.
        self._artifact = opened = Artifact.open(artifact, model_version)
        self._config = config = DriftConfig.model_validate(settings)
        reference = Reference.of(from_table(opened.table(REFERENCE_FILE)))
        self.detector = DriftDetector(
            reference, config, opened.model_version, len(Catalogue.load(opened)), now=time.time()
        )
        folder = Path(config.deep.folder).resolve() / opened.model_version
        self.evidently = EvidentlyReports(opened.path(REFERENCE_FILE), folder, config.deep)
        self._making: asyncio.Task[None] | None = None
        self._next_report = time.monotonic() + config.deep.every_s

    async def add(self, sample: DriftSample) -> dict[str, str]:
        """Counts a sample; returns the verdict of each signal."""
        self.detector.add(sample, time.time())
        if time.monotonic() >= self._next_report and (self._making is None or self._making.done()):
            self._next_report = time.monotonic() + self._config.deep.every_s
            self._making = asyncio.ensure_future(self.make_evidently_report())
        return self.detector.verdicts()

    async def report(self) -> dict[str, Any]:
        """The body of `GET /v1/drift`."""
        reports = [{"name": name, "html": f"/drift/{name}"} for name in self.evidently.names()]
        return self.detector.report(time.time()) | {"reports": reports, "deep_error": self.evidently.error or None}

    async def page(self, name: str) -> str | None:
        """The HTML of an Evidently report; None if there is no report of that name."""
        return await self.evidently.html(name)

    async def make_evidently_report(self) -> None:
        """Makes an Evidently report of the recent rows, if there are any."""
        recent = self.detector.recent()
        if recent is not None:
            await self.evidently.make(recent)
