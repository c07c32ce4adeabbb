"""Distances between the histograms of a window and of the reference, and the significance of the difference.

Shapes: S signals, M cells. P is the reference's distribution, Q the window's, n_p and n_q their effective sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc

from monitoring.drift.histograms import Cells, Doubles, Histograms

RARE = 5.0
"""Cells with fewer expected rows are tested as one cell (Cochran 1954, *Some Methods for Strengthening the Common χ²
Tests*)."""


@dataclass(frozen=True, slots=True)
class Distances:
    """Per signal; 0, and p = 1, if either side has no rows."""

    jensen_shannon_S: Doubles
    """In [0, 1]: the square root of the divergence with logarithms to base 2 (Lin 1991; Endres & Schindelin 2003)."""
    psi_S: Doubles
    """Population stability index Σ (q - p) ln(q / p) (Siddiqi 2006, *Credit Risk Scorecards*), half a row
    added to each cell so that empty cells have a logarithm."""
    effect_S: Doubles
    """PSI less its mean under no drift at these sample sizes, (cells - 1)(1/n_p + 1/n_q) (Yurdakul 2018, *Statistical
    Properties of Population Stability Index*); at least 0."""
    wasserstein_S: Doubles
    """Earth mover's distance in standard deviations of the reference (Evidently's "normed" Wasserstein distance), with
    the rows of a cell at its mean; 0 for labels. For a constant reference the unit is max(|mean|, 1)."""
    statistic_S: Doubles
    """Pearson's χ² of two binned samples: Σ (√(n_q/n_p) r - √(n_p/n_q) w)² / (r + w) (Press et al., *Numerical
    Recipes*, 14.3), rare cells joined."""
    p_value_S: Doubles
    """Probability of a statistic at least as large if both samples come from one distribution."""
    n_reference_S: Doubles
    n_window_S: Doubles


def distances(cells: Cells, reference: Histograms, window: Histograms, finite_users: bool = False) -> Distances:
    """The distances of all signals.

    `finite_users`: every window draws from the same users, assumed to be as many as in the reference. These users are
    one draw from the population, whose deviation repeats in every window. So 1/n_q + 1/n_p replaces 1/n_q as the noise;
    otherwise a small reference would differ from them in the long run.
    """
    n_p, rows_S = reference.effective_S(), window.effective_S()
    there_S = (n_p > 0) & (rows_S > 0)
    n_q = rows_S
    if finite_users:
        n_q = np.divide(n_p * rows_S, n_p + rows_S, out=np.zeros_like(n_p), where=there_S)
    p_SM, q_SM = _shares(reference), _shares(window)
    psi_S, cells_S = _stability(cells, p_SM, q_SM, n_p, n_q)
    noise_S = (cells_S - 1) * (_inverse(n_p) + _inverse(n_q))
    statistic_S, p_value_S = _chi_squared(p_SM * n_p[:, None], q_SM * n_q[:, None], there_S)
    return Distances(
        jensen_shannon_S=np.where(there_S, _jensen_shannon(p_SM, q_SM), 0.0),
        psi_S=np.where(there_S, psi_S, 0.0),
        effect_S=np.where(there_S, np.maximum(psi_S - noise_S, 0.0), 0.0),
        wasserstein_S=np.where(there_S & cells.is_number_S, _wasserstein(cells, reference, window, p_SM, q_SM), 0.0),
        statistic_S=statistic_S,
        p_value_S=p_value_S,
        n_reference_S=n_p,
        n_window_S=rows_S,
    )


def _shares(histograms: Histograms) -> Doubles:
    total_S1 = histograms.counts_SM.sum(axis=1, keepdims=True)
    share_SM: Doubles = np.zeros_like(histograms.counts_SM)
    np.divide(histograms.counts_SM, total_S1, out=share_SM, where=total_S1 > 0)
    return share_SM


def _inverse(n_S: Doubles) -> Doubles:
    inverse_S: Doubles = np.zeros_like(n_S)
    np.divide(1.0, n_S, out=inverse_S, where=n_S > 0)
    return inverse_S


def _jensen_shannon(p_SM: Doubles, q_SM: Doubles) -> Doubles:
    middle_SM = (p_SM + q_SM) / 2
    divergence_S = (_relative_entropy(p_SM, middle_SM) + _relative_entropy(q_SM, middle_SM)) / 2
    distance_S: Doubles = np.sqrt(np.clip(divergence_S, 0.0, 1.0))
    return distance_S


def _relative_entropy(p_SM: Doubles, of_SM: Doubles) -> Doubles:
    ratio_SM = np.divide(p_SM, of_SM, out=np.ones_like(p_SM), where=p_SM > 0)
    entropy_S: Doubles = (p_SM * np.log2(ratio_SM)).sum(axis=1)
    return entropy_S


def _stability(
    cells: Cells, p_SM: Doubles, q_SM: Doubles, n_p: Doubles, n_q: Doubles
) -> tuple[Doubles, npt.NDArray[np.int64]]:
    """The PSI, and the number of cells that are filled on either side."""
    used_SM = (p_SM > 0) | (q_SM > 0)
    cells_S = used_SM.sum(axis=1)

    def smooth(share_SM: Doubles, n_S: Doubles) -> Doubles:
        filled_SM = share_SM * n_S[:, None] + 0.5
        smoothed_SM: Doubles = filled_SM / (n_S + 0.5 * cells_S)[:, None].clip(1e-12)
        return smoothed_SM

    a_SM, b_SM = smooth(p_SM, n_p), smooth(q_SM, n_q)
    index_S: Doubles = np.where(used_SM, (b_SM - a_SM) * np.log(b_SM / a_SM), 0.0).sum(axis=1)
    return index_S, cells_S


def _wasserstein(cells: Cells, reference: Histograms, window: Histograms, p_SM: Doubles, q_SM: Doubles) -> Doubles:
    """∫ |F_p - F_q|, the mass of each cell at its mean."""
    found = np.zeros(len(cells.signals))
    at_reference = np.divide(
        reference.sums_SM, reference.counts_SM, out=np.zeros_like(p_SM), where=reference.counts_SM > 0
    )
    at_window = np.divide(window.sums_SM, window.counts_SM, out=np.zeros_like(q_SM), where=window.counts_SM > 0)
    for s in range(len(cells.numbers)):
        points = np.concatenate([at_reference[s], at_window[s]])
        masses = np.concatenate([p_SM[s], -q_SM[s]])
        kept = masses != 0
        points, masses = points[kept], masses[kept]
        order = np.argsort(points, kind="stable")
        gaps = np.diff(points[order])
        moved = float(np.abs(np.cumsum(masses[order])[:-1]) @ gaps)
        mean = float(p_SM[s] @ at_reference[s])
        spread = float(np.sqrt(max(p_SM[s] @ (at_reference[s] - mean) ** 2, 0.0)))
        found[s] = moved / (spread if spread > 1e-9 * max(abs(mean), 1.0) else max(abs(mean), 1.0))
    return found


def _chi_squared(r_SM: Doubles, w_SM: Doubles, there_S: npt.NDArray[np.bool_]) -> tuple[Doubles, Doubles]:
    n_p, n_q = r_SM.sum(axis=1), w_SM.sum(axis=1)
    both_SM = r_SM + w_SM
    fewer_S = np.minimum(n_p, n_q)
    total_S = np.maximum(n_p + n_q, 1e-12)
    rare_SM = (both_SM * (fewer_S / total_S)[:, None] < RARE) & (both_SM > 0)
    r, w = np.where(rare_SM, 0.0, r_SM), np.where(rare_SM, 0.0, w_SM)
    rest_r, rest_w = (r_SM * rare_SM).sum(axis=1), (w_SM * rare_SM).sum(axis=1)
    # The rare cells form one cell; if that is rare too, its rows join the largest cell.
    lost_S = (rest_r + rest_w) * fewer_S / total_S < RARE
    rows = np.arange(len(r))
    largest_S = (r + w).argmax(axis=1) if r.shape[1] else rows
    if r.shape[1]:
        r[rows, largest_S] += np.where(lost_S, rest_r, 0.0)
        w[rows, largest_S] += np.where(lost_S, rest_w, 0.0)
    r = np.column_stack([r, np.where(lost_S, 0.0, rest_r)])
    w = np.column_stack([w, np.where(lost_S, 0.0, rest_w)])
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.sqrt(n_q / n_p)[:, None] * r - np.sqrt(n_p / n_q)[:, None] * w
        term = np.where(r + w > 0, difference**2 / (r + w), 0.0)
    freedom_S = (r + w > 0).sum(axis=1) - 1
    tested_S = there_S & (freedom_S > 0)
    statistic_S = np.where(tested_S, term.sum(axis=1), 0.0)
    p_value_S = np.where(tested_S, chdtrc(np.maximum(freedom_S, 1), statistic_S), 1.0)
    return statistic_S, p_value_S
