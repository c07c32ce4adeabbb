"""Work that can't be done before its deadline is not started.

Otherwise, under overload, a queue in order of arrival spends all of its time on answers that come just too late.
"""

from __future__ import annotations

from deployments.pipeline.overload.service_time import ServiceTime

SHORT_WAIT = 0.1
"""A batch that waited for less of its time is always started, however long batches have lately taken."""


def skip_batch(waited_s: float, allowed_s: float, reserve_s: float, service_time: ServiceTime, now: float) -> bool:
    """Whether a batch leaves the queue too late for its stages: it gets its fallbacks at once, so that the batches
    behind it are not late too.

    Args:
        waited_s: time in the queue. allowed_s: time from arrival to the deadline. reserve_s: kept for the response.
        service_time: of the latest batches, all stages together. now: on the clock of `service_time`.
    """
    left_s = allowed_s - waited_s - reserve_s
    return waited_s > SHORT_WAIT * allowed_s and left_s < service_time.expected_s(now)
