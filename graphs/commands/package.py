"""`python -m graphs package`: adds another way of scoring to a finished artifact."""

from __future__ import annotations

from deployments.artifact.reader import Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.errors import ConfigError
from deployments.models.backends import parity_gate
from deployments.models.backends.precision import AnyPrecision
from deployments.models.backends.selection import Backend, unsupported_reason
from graphs.config import RecommenderArgs
from graphs.console import output_console
from graphs.data.dataset import load_dataset
from graphs.evaluation.held_out import hold_out
from graphs.fit.packaging import combinations, package


def repackage(
    path: str, data: str, config: RecommenderArgs, backend: Backend, precision: AnyPrecision, columns: str = ""
) -> Artifact:
    """Adds the combination to the artifact at `path`, which keeps its model version. `data`: its training data.

    Raises:
        ConfigError: the combination does not exist, or failed the gate; with the numbers, which the manifest has, too.
    """
    if reason := unsupported_reason(backend, precision):
        raise ConfigError(reason)
    with ArtifactWriter(path) as writer:
        writer.copy_from(Artifact.open(path))
        held_out = hold_out(writer.preview(), load_dataset(data, config.events, columns), config.stages)
        package(writer, held_out, combinations(backend, precision), output_console())
    artifact = Artifact.open(path)
    parity_gate.require_passed(artifact, backend, precision)
    return artifact
