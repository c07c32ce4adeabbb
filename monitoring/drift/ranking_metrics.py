"""NDCG, for answers that were served and for answers to held-out requests."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def ndcg(hit_BT: npt.NDArray[np.bool_], relevant_B: npt.NDArray[np.integer], cutoff: int) -> npt.NDArray[np.float64]:
    """NDCG@`cutoff` [B] with binary gains (Järvelin & Kekäläinen 2002).

    DCG = Σ_t hit_t / log2(t + 1) over the first `cutoff` places t = 1, 2, …; NDCG is its share of the DCG of
    min(cutoff, relevant) hits in the first places. `hit_BT`: whether the item at each place is relevant; a list shorter
    than `cutoff` has no hits past its end. `relevant_B`: relevant items per list, shown or not; 0 counts as 1.
    """
    discount_C = 1 / np.log2(np.arange(2, cutoff + 2))
    ideal_B = np.cumsum(discount_C)[np.clip(relevant_B, 1, cutoff) - 1]
    first_BC = hit_BT[:, :cutoff]
    dcg_B = (first_BC * discount_C[: first_BC.shape[1]]).sum(axis=1)
    return np.asarray(dcg_B / ideal_B)
