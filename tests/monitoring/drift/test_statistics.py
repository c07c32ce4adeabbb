"""Histograms, distances and verdicts: their laws, and the results of known shifts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, kstest, wasserstein_distance

from monitoring.drift.distances import distances
from monitoring.drift.histograms import OTHER, Cells, Columns, Histograms, Labels, concat
from monitoring.drift.verdicts import DriftJudge, Verdict, VerdictConfig, adjusted

RNG = np.random.default_rng(5)


def columns(values: list[float] | np.ndarray, labels: list[str] | None = None, weight: float = 1.0) -> Columns:
    value_B = np.array(values, np.float32)
    labels = ["a"] * len(value_B) if labels is None else labels
    names = tuple(dict.fromkeys(labels))
    share_BL = np.zeros((len(labels), len(names)), np.float32)
    share_BL[np.arange(len(labels)), [names.index(label) for label in labels]] = 1
    return Columns(np.full(len(value_B), weight), {"x": value_B}, {"y": Labels(names, share_BL)})


def same(a: Histograms, b: Histograms) -> None:
    for name in ("counts_SM", "sums_SM", "squares_S", "missing_S"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-6)


numbers = st.lists(st.one_of(st.floats(-1e6, 1e6, width=32), st.just(float("nan")), st.just(7.0)), max_size=60)


@settings(deadline=None)
@given(numbers, numbers, numbers, numbers)
def test_merging_is_associative_commutative_and_equals_counting_all_rows_at_once(
    reference: list[float], a: list[float], b: list[float], c: list[float]
) -> None:
    cells = Cells.of(columns([*reference, 1.0]))
    x, y, z = (cells.count(columns(part)) for part in (a, b, c))
    same(x.merge(y).merge(z), x.merge(y.merge(z)))
    same(x.merge(y), y.merge(x))
    same(x.merge(cells.empty()), x)
    same(x.merge(y).merge(z), cells.count(concat([columns(a), columns(b), columns(c)])))


@settings(deadline=None)
@given(numbers, numbers)
def test_no_column_raises_and_every_distance_is_within_its_range(reference: list[float], window: list[float]) -> None:
    """Also empty, constant and all-missing columns."""
    cells = Cells.of(columns(reference))
    found = distances(cells, cells.count(columns(reference)), cells.count(columns(window)))
    for name in ("jensen_shannon_S", "psi_S", "effect_S", "wasserstein_S", "statistic_S", "p_value_S"):
        value_S = getattr(found, name)
        assert np.isfinite(value_S).all(), name
        assert (value_S >= -1e-12).all(), name
    assert (found.jensen_shannon_S <= 1).all()
    assert (found.p_value_S <= 1).all()


@settings(deadline=None)
@given(numbers.filter(lambda values: np.isfinite(values).any()), st.floats(0.5, 20))
def test_the_distance_of_anything_to_itself_is_0_whatever_its_weights(values: list[float], weight: float) -> None:
    cells = Cells.of(columns(values))
    found = distances(cells, cells.count(columns(values)), cells.count(columns(values, weight=weight)))
    np.testing.assert_allclose(found.jensen_shannon_S, 0, atol=1e-7)
    np.testing.assert_allclose(found.psi_S, 0, atol=1e-9)
    np.testing.assert_allclose(found.effect_S, 0, atol=1e-9)
    np.testing.assert_allclose(found.wasserstein_S, 0, atol=1e-6)
    np.testing.assert_allclose(found.p_value_S, 1)


def test_values_above_and_below_a_constant_reference_are_distinguished_from_it() -> None:
    cells = Cells.of(columns([10.0] * 200))
    reference = cells.count(columns([10.0] * 200))
    for other in (5.0, 9.999, 10.001, 20.0):
        found = distances(cells, reference, cells.count(columns([other] * 200)))
        assert found.jensen_shannon_S[0] == pytest.approx(1)
        assert found.p_value_S[0] < 1e-10


def test_labels_unknown_to_the_reference_are_counted_as_other() -> None:
    cells = Cells.of(columns([1.0] * 4, ["a", "b", "a", "b"]))
    counted = cells.count(columns([1.0] * 3, ["b", "new", "newer"]))
    assert dict(cells.named("y", counted.counts_SM[1])) == {"a": 0, "b": 1, OTHER: 2}


def test_the_statistic_is_pearsons_chi_squared_of_both_samples() -> None:
    reference, window = ["a"] * 300 + ["b"] * 200 + ["c"] * 100, ["a"] * 80 + ["b"] * 90 + ["c"] * 30
    cells = Cells.of(columns([1.0] * 600, reference))
    found = distances(cells, cells.count(columns([1.0] * 600, reference)), cells.count(columns([1.0] * 200, window)))
    expected = chi2_contingency([[300, 200, 100], [80, 90, 30]], correction=False)
    assert found.statistic_S[1] == pytest.approx(expected.statistic)
    assert found.p_value_S[1] == pytest.approx(expected.pvalue)


def test_without_drift_p_values_are_uniform_and_the_effect_is_about_0() -> None:
    p_values, effects = [], []
    for _ in range(600):
        cells = Cells.of(columns(reference := RNG.normal(size=500)))
        found = distances(cells, cells.count(columns(reference)), cells.count(columns(RNG.normal(size=150))))
        p_values.append(found.p_value_S[0])
        effects.append(found.effect_S[0])
    assert kstest(p_values, "uniform").pvalue > 1e-3
    assert np.mean(effects) < 0.02
    assert np.mean(np.array(p_values) <= 0.01) < 0.03


def test_the_same_users_in_every_window_are_no_drift() -> None:
    """Reference and live users are halves of one population; every window shows the same live users."""
    rejected = []
    for _ in range(200):
        reference, live = RNG.normal(size=300), RNG.normal(size=300)
        cells = Cells.of(columns(reference))
        of_reference = cells.count(columns(reference))
        for kind in (False, True):
            windows = [cells.count(columns(RNG.choice(live, 200))) for _ in range(5)]
            p_values = [distances(cells, of_reference, window, kind).p_value_S[0] for window in windows]
            rejected.append((kind, np.median(p_values) <= 0.01))
    rate = {kind: np.mean([hit for k, hit in rejected if k == kind]) for kind in (False, True)}
    assert rate[True] <= 0.02
    assert rate[False] > rate[True]


def test_rows_of_unequal_weight_count_for_less_than_their_number() -> None:
    rows = columns(RNG.normal(size=400))
    uneven = Columns(np.tile([1.0, 9.0], 200), rows.numbers, rows.labels)
    assert Cells.of(rows).count(uneven).effective_S()[0] == pytest.approx(2000**2 / (200 * 1 + 200 * 81))


def test_wasserstein_equals_that_of_the_rows_up_to_the_width_of_the_cells() -> None:
    reference, window = RNG.normal(3, 2, 5000), RNG.normal(4, 2, 5000)
    cells = Cells.of(columns(reference))
    found = distances(cells, cells.count(columns(reference)), cells.count(columns(window)))
    assert found.wasserstein_S[0] == pytest.approx(wasserstein_distance(reference, window) / reference.std(), rel=0.15)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_adjusted_p_values_reject_what_benjamini_and_hochberg_reject(p_values: list[float]) -> None:
    p, q = np.array(p_values), 0.1
    ordered = np.sort(p)
    passed = np.flatnonzero(ordered <= q * np.arange(1, len(p) + 1) / len(p) * (1 + 1e-12))
    bar = ordered[passed[-1]] if len(passed) else -1.0
    clear = np.abs(adjusted(p) - q) > 1e-9
    assert ((adjusted(p) <= q) == (p <= bar))[clear].all()
    assert (adjusted(p) >= p - 1e-12).all()


class Windows:
    """Windows of one number against a reference of 1,000 rows."""

    def __init__(self, **config: float) -> None:
        reference = columns(RNG.normal(size=1000))
        self._cells = Cells.of(reference)
        self._reference = self._cells.count(reference)
        self._judge = DriftJudge(self._cells.signals, VerdictConfig.model_validate(config))

    def window(self, shift: float, size: int = 400) -> Verdict:
        rows = columns(RNG.normal(shift, size=size))
        return self._judge(distances(self._cells, self._reference, self._cells.count(rows)))["x"].verdict


def test_drift_takes_k_of_n_windows_and_ends_after_as_many_quiet_ones() -> None:
    windows = Windows()
    assert [windows.window(0.0) for _ in range(4)] == [Verdict.OK] * 4
    assert [windows.window(1.0) for _ in range(4)] == [Verdict.WARN, Verdict.WARN, Verdict.DRIFT, Verdict.DRIFT]
    after = [windows.window(0.0) for _ in range(8)]
    assert after[:2] == [Verdict.DRIFT] * 2
    assert after[-1] == Verdict.OK
    assert Verdict.DRIFT not in after[3:]


def test_one_window_that_differs_is_a_warning_only() -> None:
    windows = Windows()
    seen = [windows.window(1.0), *(windows.window(0.0) for _ in range(8))]
    assert seen[0] == Verdict.WARN
    assert Verdict.DRIFT not in seen
    assert seen[-1] == Verdict.OK


def test_a_small_difference_does_not_end_a_drift_that_it_would_not_have_begun() -> None:
    config = {"enter_effect": 0.3, "leave_effect": 0.02}
    windows = Windows(**config)
    assert Verdict.DRIFT not in [windows.window(0.3, 3000) for _ in range(8)]
    assert [windows.window(1.0) for _ in range(5)][-1] == Verdict.DRIFT
    assert {windows.window(0.3, 3000) for _ in range(8)} == {Verdict.DRIFT}


def test_a_window_of_few_rows_is_insufficient_data_and_changes_nothing() -> None:
    windows = Windows(min_rows=50)
    for _ in range(3):
        windows.window(1.0)
    assert windows.window(0.0, 30) == Verdict.INSUFFICIENT_DATA
    assert windows.window(1.0) == Verdict.DRIFT


def test_thresholds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="leave_effect"):
        VerdictConfig(enter_effect=0.1, leave_effect=0.2)
    with pytest.raises(ValueError, match="enter_windows"):
        VerdictConfig(enter_windows=6)
