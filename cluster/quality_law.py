"""The law by which quality is cut under load. The pipeline calls it; the simulator compiles the same functions.

A factor in [0, 1] follows from the share of its time that a request has waited. Functions of plain numbers, without any
import, so that numba can compile them (cluster/simulator/step.py).
"""


def factor_at(wait_share: float, from_wait: float, to_wait: float) -> float:
    """The highest factor allowed after this wait: 1 up to `from_wait`, 0 from `to_wait` on, linear between them."""
    return min(1.0, max(0.0, (to_wait - wait_share) / (to_wait - from_wait)))


def recovered(factor: float, elapsed_s: float, recovery_per_s: float) -> float:
    """The factor after `elapsed_s` without any further cut."""
    return min(1.0, factor + recovery_per_s * max(0.0, elapsed_s))


def work_share(factor: float, floor: float, cut: bool, skipped: bool) -> float:
    """Share of its usual work per request that a stage does at `factor`.

    `cut`: the stage gets fewer candidates; `skipped`: it is left out below `floor`, and later stages then get every
    candidate again.
    """
    if factor >= floor:
        return factor if cut else 1.0
    return 0.0 if skipped else 1.0
