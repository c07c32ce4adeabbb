"""False alarms of the drift verdicts without drift, and the delay until a shift is detected.

The stages and the drift signals are the real ones; the days are simulated. Windows of requests, drawn from the measured
requests of the training users, go through the monitor as samples of live traffic do, on a simulated clock.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from rich.progress import track

from deployments.artifact.reader import Artifact
from deployments.messages import Ints
from deployments.telemetry.drift_signals import DriftSignals
from graphs.config import RecommenderArgs
from graphs.config_file import load, recommender_args
from graphs.data.dataset import Dataset, load_dataset
from graphs.evaluation.offline_funnel import OfflineFunnel, with_plain_scoring
from graphs.evaluation.results_file import write_section
from graphs.fit.drift_reference import ANSWERS, NEW_USERS, measure
from monitoring.drift.detector import DriftDetector, DriftSample
from monitoring.drift.drift_config import DriftConfig
from monitoring.drift.histograms import Columns, concat
from monitoring.drift.reference import REFERENCE_FILE, Reference, from_table

WINDOW_USERS = 300
NORMAL, SHIFTED, REPEATS = 20, 40, 25
"""Windows before and after a shift, and how often each shift is tried."""

SHIFTS = (0.10, 0.25, 0.50)
SPLITS, SPLIT_WINDOWS, FIRST_SPLIT = 30, 288, 5000
"""`FIRST_SPLIT`: seeds that the statistics were not developed on (benchmarks/NOTES.md)."""

DRIFT = "DRIFT"


@dataclass(frozen=True)
class Pools:
    """Measured requests: of known users, of new users, and of known users with one input changed."""

    known: Columns
    new: Columns
    short: Columns
    twenty: Columns
    weaker: dict[float, Columns]


def pools(artifact: Artifact, dataset: Dataset, args: RecommenderArgs) -> Pools:
    """Runs the stages over every user, once per changed input."""
    funnel, signals = OfflineFunnel(artifact, with_plain_scoring(args.stages)), DriftSignals.load(artifact)
    known = np.unique(dataset.interactions.user_E)

    def rows(data: Dataset, users: Ints, limit: int = args.store.history_limit, answers: int = ANSWERS) -> Columns:
        return measure(funnel, signals, data, users, limit, answers)

    def weaker(share: float) -> Dataset:
        events = dataset.interactions
        return replace(dataset, interactions=replace(events, weight_E=(events.weight_E * (1 - share)).astype("f4")))

    return Pools(
        known=rows(dataset, known),
        new=rows(dataset, np.full(200, -1, np.int32)),
        short=rows(dataset, known, limit=10),
        twenty=rows(dataset, known, answers=20),
        weaker={share: rows(weaker(share), known) for share in SHIFTS},
    )


class Traffic:
    """Sends windows of WINDOW_USERS users to a monitor, one after the other in simulated time."""

    def __init__(self, reference: Columns, config: DriftConfig, version: str, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.monitor = DriftDetector(Reference.of(reference), config, version, 1, now=0.0)
        self._version, self._step_s, self._now = version, config.window_s, 0.0

    def window(self, rows: Columns) -> set[str]:
        """Sends a window, closes it and returns the signals in DRIFT."""
        users = np.arange(len(rows), dtype=np.uint64)
        self.monitor.add(DriftSample("simulated", self._version, rows, users, []), self._now)
        self._now += self._step_s
        self.monitor.tick(self._now)
        return {name for name, verdict in self.monitor.verdicts().items() if verdict == DRIFT}

    def drawn(self, known: Columns, new: Columns, share_new: float = NEW_USERS) -> Columns:
        """The requests of one window: known users, none twice, and a share of new users."""
        count = int(self.rng.binomial(WINDOW_USERS, share_new))
        known_rows = self.rng.permutation(len(known))[: WINDOW_USERS - count]
        return concat([known.take(known_rows), new.take(self.rng.integers(0, len(new), count))])

    def mixed(self, pools_: Pools, changed: Columns, share: float) -> Columns:
        """As `drawn`; the requests of `share` of the known users have the changed input."""
        mask = self.rng.random(len(pools_.known)) < share
        both = concat([pools_.known.take(~mask), changed.take(mask)])
        return self.drawn(both, pools_.new)


def false_alarms(traffic: Traffic, windows: int, draw: Callable[[], Columns], title: str) -> tuple[int, int]:
    """Counts over traffic without drift: (signals that entered DRIFT, windows with a signal in DRIFT)."""
    entered, in_drift, before = 0, 0, set[str]()
    for _ in track(range(windows), title):
        drifting = traffic.window(draw())
        entered += len(drifting - before)
        in_drift += bool(drifting)
        before = drifting
    return entered, in_drift


def delays(pools_: Pools, reference: Columns, config: DriftConfig, version: str) -> Iterator[tuple[str, ...]]:
    """Yields the rows of the table of detection delays."""
    shifts: list[tuple[str, str, Callable[[Traffic, float], Columns]]] = [
        (
            "of all requests come from new users, besides the usual ones",
            "request.user",
            lambda t, s: t.drawn(pools_.known, pools_.new, NEW_USERS + s),
        ),
        (
            "of the known users have lost all but 10 events",
            "input.history_length",
            lambda t, s: t.mixed(pools_, pools_.short, s),
        ),
        ("of the known users ask for 20 items", "request.n", lambda t, s: t.mixed(pools_, pools_.twenty, s)),
        ("less weight of every event", "input.mean_weight", lambda t, s: t.drawn(pools_.weaker[s], pools_.new)),
    ]
    for title, signal, draw in shifts:
        for share in SHIFTS:
            found, others = [], []
            for repeat in range(REPEATS):
                traffic = Traffic(reference, config, version, seed=1000 + repeat)
                for _ in range(NORMAL):
                    traffic.window(traffic.drawn(pools_.known, pools_.new))
                for number in range(1, SHIFTED + 1):
                    drifting = traffic.window(draw(traffic, share))
                    if signal in drifting:
                        found.append(number)
                        others.append(len(drifting) - 1)
                        break
            delay = [
                f"{np.median(found):.0f} ({np.quantile(found, 0.9):.0f})" if found else "none",
                f"{np.median(found) * config.window_s:.0f} s" if found else "none",
                f"{np.median(others):.0f}" if found else "none",
            ]
            yield f"{share:.0%} {title}", f"`{signal}`", f"{len(found)}/{REPEATS}", *delay


def calibrate(config_path: str, out: str, data: str, days: float) -> None:
    """Measures false alarms and delays, and writes the section."""
    began = time.process_time()
    args = recommender_args(load(config_path))
    config = args.drift
    artifact, dataset = Artifact.open(args.artifact), load_dataset(data, args.events)
    version = artifact.model_version
    reference = from_table(artifact.table(REFERENCE_FILE))
    found = pools(artifact, dataset, args)
    without = {name: v for name, v in found.known.numbers.items() if name in reference.numbers}
    assert without.keys() == reference.numbers.keys(), "the artifact's reference has other signals; train it again"

    traffic = Traffic(reference, config, version, seed=1)
    windows = round(days * 86_400 / config.window_s)
    entered, in_drift = false_alarms(
        traffic, windows, lambda: traffic.drawn(found.known, found.new), f"{days:g} days without drift"
    )
    split_entered, split_bad = 0, 0
    for split in track(range(SPLITS), "other users than the reference's"):
        order = np.random.default_rng(FIRST_SPLIT + split).permutation(len(found.known))
        half = len(order) // 2
        new = round(half * NEW_USERS / (1 - NEW_USERS))
        one = concat([found.known.take(order[:half]), found.new.take(np.arange(new))])
        other = found.known.take(order[half:])
        apart = Traffic(one, config, version, seed=FIRST_SPLIT + split)
        seen: set[str] = set()
        for _ in range(SPLIT_WINDOWS):
            rows = other.take(apart.rng.integers(0, len(other), WINDOW_USERS))
            count = int(apart.rng.binomial(WINDOW_USERS, NEW_USERS))
            rows = concat([rows.take(np.arange(WINDOW_USERS - count)), found.new.take(np.arange(count))])
            seen |= apart.window(rows)
        split_entered += len(seen)
        split_bad += bool(seen)
    table = list(delays(found, reference, config, version))
    signals = len(Reference.of(reference).cells.signals)
    verdicts = config.verdicts
    lines = [
        "## Drift: false alarms and detection delay",
        "",
        f"`python -m benchmarks drift --days {days:g}` on {datetime.now(UTC):%Y-%m-%d}: {platform.machine()}, Python "
        f"{platform.python_version()}, model {version}, {time.process_time() - began:.0f} s of CPU. {signals} signals, "
        f"windows of {config.window_s:g} s with {WINDOW_USERS} users, q = {verdicts.q:g} (Benjamini-Hochberg), index "
        f"beyond noise ≥ {verdicts.enter_effect:g}, {verdicts.enter_windows} of {verdicts.of_windows} windows.",
        "",
        f"**Without drift: {entered} false DRIFT in {days:g} simulated days** ({windows} windows; in DRIFT for "
        f"{in_drift} of them). The windows are drawn from the same users as the reference.",
        "",
        f"Harder: the reference is one random half of the users, the traffic the other half ({SPLITS} splits, "
        f"{SPLIT_WINDOWS} windows each): {split_bad} splits had a DRIFT, in {split_entered} of {SPLITS * signals} "
        "signals. The halves do differ, and they differ in every window.",
        "",
        f"Shifts in one input after {NORMAL} normal windows, {REPEATS} times each, given up after {SHIFTED} windows. "
        "`windows`: median (90th percentile) until the signal is in DRIFT; `others`: median of the other signals in "
        "DRIFT by then, such as scores that follow the input.",
        "",
        "| shift | signal | found | windows | delay | others |",
        "|---|---|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in table),
    ]
    write_section(out, "\n".join(lines) + "\n")
    print("\n".join(lines))
