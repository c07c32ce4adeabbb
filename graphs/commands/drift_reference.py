"""`python -m graphs reference`: replaces the drift reference of an artifact by a window of live traffic."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from deployments.artifact.reader import Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.errors import DataError
from monitoring.drift.reference import BASIS_FILE, REFERENCE_FILE, from_table, to_table

MIN_LIVE_REQUESTS = 200


def from_live(artifact: str, live: str, out: str) -> Artifact:
    """Writes `artifact` to `out`, with the rows of `live` (the drift actor's live.parquet) as its reference.

    The model stays the same; its version does not, since the reference is one of the files that the version covers.

    Raises:
        DataError: `live` holds no measured rows, or too few.
        ArtifactError: `artifact` can't be read, or has no reference to replace.
    """
    opened = Artifact.open(artifact)
    opened.path(BASIS_FILE)
    try:
        rows = from_table(pq.read_table(live))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{live}: {error}; name the live.parquet in the folder of drift reports") from None
    if len(rows) < MIN_LIVE_REQUESTS:
        raise DataError(
            f"{live} has {len(rows)} requests; a reference takes {MIN_LIVE_REQUESTS}, so wait for more traffic"
        )
    with ArtifactWriter(out) as writer:
        writer.copy_from(opened)
        writer.table(REFERENCE_FILE, to_table(rows))
    return Artifact.open(out)
