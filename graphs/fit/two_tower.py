"""Fits the two-tower model: sampled softmax over the successes that follow each cut of a history.

Shapes: C training rows (cuts of histories), L events before, F events after, X user features, N items, D dimensions,
S samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch

from deployments.messages import Array, Floats, Ints
from deployments.models.user_tower import TOWER_HISTORY_LENGTH
from graphs.data.dataset import Interactions
from graphs.fit.index_choice import QUERIES
from graphs.fit.item_to_item import follows
from graphs.fit.towers import ItemTower, TrainableUserTower

WIDTH = 64
"""Dimensions without the bias."""

EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 3, 256, 1e-3, 1e-5, 0.4
SAMPLES = 1024
"""Items drawn for the denominator of the softmax, in proportion to popularity^0.75."""

FUTURE, TARGETS, TARGET_DECAY = 20, 4, 10.0
"""Successes among the next FUTURE events are targets. TARGETS of them are drawn per row, near ones more often."""

SHRINKAGE = 0.003
"""Weight of the mean squared length of the vectors in the loss."""


@dataclass(frozen=True, slots=True)
class TwoTower:
    """The parts of the fitted model that serving reads."""

    item_vectors_ND: Floats
    history_vectors_NW: Floats
    user_tower: dict[str, Floats]
    user_vectors_QD: Floats
    """Of random cuts, for measuring the recall of an index."""


@dataclass(frozen=True, slots=True)
class _Rows:
    item_CL: Ints
    weight_CL: Floats
    target_CF: Ints
    features_CX: Floats


def fit_two_tower(
    events: Interactions,
    features_NC: Floats,
    user_features_UF: Floats,
    seed: int,
    progress: Callable[[float], None] = lambda _: None,
) -> TwoTower:
    """Trains on `events`. `features_NC`: of items; `user_features_UF`: of users; `progress` gets the share done."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    n_items = len(features_NC)
    count_N = np.bincount(events.item_E[events.target_E], minlength=n_items).astype(np.float32)
    popularity_N = ((np.log1p(count_N) - 2) / 2)[:, None]
    features = torch.from_numpy(np.concatenate([features_NC, popularity_N], axis=1).astype(np.float32))
    log_share_N = torch.from_numpy(np.log((count_N + 0.5) / (count_N + 0.5).sum()))
    items = ItemTower(n_items, features.shape[1], WIDTH + 1, log_share_N)
    items.embedding_NW.data = torch.from_numpy(_start(events, n_items, seed))
    users = TrainableUserTower(WIDTH + 1, user_features_UF.shape[1], DROPOUT)

    share_N = (count_N + 1) ** 0.75
    share_N /= share_N.sum()
    draw_N = torch.from_numpy(share_N.astype(np.float64))
    log_draw_N = torch.from_numpy(np.log(share_N).astype(np.float32))
    rows = _rows(events, user_features_UF)
    parameters = [*items.parameters(), *users.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    batches = -(-len(rows.item_CL) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=EPOCHS * batches, pct_start=0.15
    )
    step = 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(rows.item_CL))
        for start in range(0, len(order), BATCH):
            loss = _loss(items, users, features, rows, order[start : start + BATCH], draw_N, log_draw_N, rng)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            step += 1
            progress(step / (EPOCHS * batches))
    users.eval()
    with torch.inference_mode():
        every_N = torch.arange(n_items)
        history_NW = items.in_history(features, every_N)
        some = rng.permutation(len(rows.item_CL))[:QUERIES]
        return TwoTower(
            item_vectors_ND=items(features, every_N).numpy(),
            history_vectors_NW=history_NW.numpy(),
            user_vectors_QD=_user_vectors(users, history_NW, rows.item_CL[some], rows, some).numpy(),
            user_tower={name: value.numpy() for name, value in users.state_dict().items()},
        )


def _loss(
    items: ItemTower,
    users: TrainableUserTower,
    features: torch.Tensor,
    rows: _Rows,
    batch: Array,
    draw_N: torch.Tensor,
    log_draw_N: torch.Tensor,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Sampled softmax with the logQ correction (Bengio & Senécal 2008): the logit of a drawn item minus log(S · its
    share). The targets of a row are never its negatives."""
    target_BF = rows.target_CF[batch]
    row, target = _draw_targets(target_BF, rng)
    item_R, at_BL = np.unique(rows.item_CL[batch], return_inverse=True)  # only the rows that the batch needs
    history_RW = items.in_history(features, torch.from_numpy(np.maximum(item_R, 0)))
    user_BD = _user_vectors(users, history_RW, at_BL.reshape(len(batch), -1), rows, batch)
    drawn_S = torch.multinomial(draw_N, SAMPLES, replacement=True)
    item_SD, target_TD = items(features, drawn_S), items(features, target)
    logit_BS = user_BD @ item_SD.T - log_draw_N[drawn_S] - float(np.log(SAMPLES))
    own_BN = torch.zeros(len(batch), len(features), dtype=torch.bool)
    own_row, own_column = np.nonzero(target_BF >= 0)
    own_BN[own_row, target_BF[own_row, own_column]] = True
    logit_BS = logit_BS.masked_fill(own_BN[:, drawn_S], -1e9)
    logit_T = (user_BD[row] * target_TD).sum(1)
    loss_T = torch.logaddexp(logit_T, torch.logsumexp(logit_BS, 1)[row]) - logit_T
    weight_T = 1 / torch.bincount(row, minlength=len(batch))[row]
    size = target_TD[:, :-1].pow(2).sum(1).mean() + user_BD[:, :-1].pow(2).sum(1).mean()
    loss: torch.Tensor = (loss_T * weight_T).sum() / len(batch) + SHRINKAGE * size
    return loss


def _user_vectors(
    users: TrainableUserTower, history_RW: torch.Tensor, at_BL: Array, rows: _Rows, batch: Array
) -> torch.Tensor:
    """The vectors [B, D] of the rows `batch`. `at_BL`: where the events' items are in `history_RW`."""
    vectors: torch.Tensor = users(
        history_RW[torch.from_numpy(np.maximum(at_BL, 0))],
        torch.from_numpy(rows.weight_CL[batch]),
        torch.from_numpy((rows.item_CL[batch] >= 0).astype(np.float32)),
        torch.from_numpy(rows.features_CX[batch]),
    )
    return vectors


def _draw_targets(target_BF: Ints, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Up to TARGETS per row without replacement (Gumbel top-k), in proportion to exp(-distance / TARGET_DECAY)."""
    share_BF = (target_BF >= 0) * np.exp(-np.arange(FUTURE) / TARGET_DECAY)
    key_BF = np.log(share_BF + 1e-12) - np.log(-np.log(rng.random(target_BF.shape)))
    chosen_BT = np.take_along_axis(target_BF, np.argsort(-key_BF, axis=1)[:, :TARGETS], axis=1)
    row, column = np.nonzero(chosen_BT >= 0)
    return torch.from_numpy(row), torch.from_numpy(chosen_BT[row, column].astype(np.int64))


def _rows(events: Interactions, user_features_UF: Floats) -> _Rows:
    """Every second cut that has a success among the next FUTURE events."""
    cut_C = np.flatnonzero(events.user_E[1:] == events.user_E[:-1]) + 1
    target_CF = np.full((len(cut_C), FUTURE), -1, np.int32)
    for k in range(FUTURE):
        at = np.minimum(cut_C + k, len(events) - 1)
        good = (cut_C + k < len(events)) & (events.user_E[at] == events.user_E[cut_C]) & events.target_E[at]
        target_CF[good, k] = events.item_E[at[good]]
    useful = (target_CF >= 0).any(axis=1) & (np.arange(len(cut_C)) % 2 == 0)
    cut_C, target_CF = cut_C[useful], target_CF[useful]
    item_CL = np.full((len(cut_C), TOWER_HISTORY_LENGTH), -1, np.int32)
    weight_CL = np.zeros((len(cut_C), TOWER_HISTORY_LENGTH), np.float32)
    for k in range(TOWER_HISTORY_LENGTH):
        at = np.maximum(cut_C - 1 - k, 0)
        same = (cut_C - 1 - k >= 0) & (events.user_E[at] == events.user_E[cut_C])
        item_CL[same, k], weight_CL[same, k] = events.item_E[at[same]], events.weight_E[at[same]]
    return _Rows(item_CL, weight_CL, target_CF, user_features_UF[events.user_E[cut_C]])


def _start(events: Interactions, n_items: int, seed: int) -> Floats:
    """Initial embeddings [N, W]: the factors of the co-occurrence matrix, scaled to a mean square norm of 1."""
    counts = follows(events, n_items)
    row_N = np.asarray(counts.sum(axis=1)).ravel() + 5
    column_N = np.asarray(counts.sum(axis=0)).ravel() + 5
    scaled = (scipy.sparse.diags(row_N**-0.5) @ counts @ scipy.sparse.diags(column_N**-0.5)).astype(np.float32)
    width = min(WIDTH, n_items - 1)
    if scaled.nnz == 0:
        return np.random.default_rng(seed).normal(size=(n_items, WIDTH), scale=WIDTH**-0.5).astype(np.float32)
    left_NW, value_W, right_WN = scipy.sparse.linalg.svds(scaled, k=width, random_state=seed)
    both_NW = left_NW * np.sqrt(value_W) + right_WN.T * np.sqrt(value_W)
    both_NW /= np.sqrt((both_NW**2).sum(axis=1).mean()) + 1e-9
    padded = np.zeros((n_items, WIDTH), np.float32)
    padded[:, :width] = both_NW
    return padded
