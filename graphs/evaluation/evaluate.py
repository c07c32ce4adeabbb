"""Offline evaluation: the whole funnel, stage by stage as served, beside the baselines on the same split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from deployments.artifact.reader import Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.errors import DataError
from deployments.messages import Bools, CandidateBatch, Ints, RankedBatch
from deployments.stages.fallbacks import retrieval_scores, score_order
from deployments.stages.ranking import AUTO_DIVERSITY
from graphs.config import Stages
from graphs.data.dataset import Dataset, Interactions
from graphs.data.splits import Parts, Split
from graphs.evaluation import baselines
from graphs.evaluation.offline_funnel import BATCH, OfflineFunnel
from graphs.evaluation.ranking_quality import DEPTH, HeldOutUsers
from graphs.evaluation.verdict import METRIC


def hold_users(dataset: Dataset, split: Split) -> tuple[Parts, HeldOutUsers]:
    """The events divided by `split`, and the users who are judged.

    Raises:
        DataError: there are none.
    """
    parts = split(dataset.interactions)
    held_out = HeldOutUsers(parts, len(dataset.items))
    if not len(held_out):
        raise DataError(
            f"{dataset.name}: nobody can be judged ({split}): of {held_out.nothing_left:,} users every item is seen "
            f"before, and {parts.cold_users:,} have no earlier event; see `seen` of events.types, or take another split"
        )
    return parts, held_out


def evaluate(
    artifact: Artifact, dataset: Dataset, stages: Stages, compare: bool = True, split: Split | None = None
) -> dict[str, Any]:
    """The evaluation table: who is judged, `funnel` as served, its fallbacks, each candidate source alone, and the
    `baselines`. `split`: of `dataset`; that of the artifact's training by default.

    Raises:
        DataError: nobody can be judged.
    """
    split = split or Split.of(artifact.manifest.settings)
    parts, held_out = hold_users(dataset, split)
    result: dict[str, Any] = {
        "data": dataset.name,
        "split": str(split),
        "scoring": f"{stages.scoring.config.backend} {stages.scoring.config.precision}",
        "test_users": len(held_out),
        "test_events": held_out.events,
        "judged": {
            "share_of_users": len(held_out) / len(dataset.users),
            "drawn_from": held_out.drawn_from,
            "answerable": held_out.answerable,
            "nothing_left": held_out.nothing_left,
            "cold_users": parts.cold_users,
        },
        **_funnel(artifact, dataset, stages, parts.history, held_out),
    }
    if compare:
        data = baselines.BaselineData(parts, len(dataset.items), held_out.users)
        result |= {"baselines": {}, "left_out": {}}
        for name in baselines.methods(data):
            try:
                result["baselines"][name] = held_out(held_out.top(baselines.fit(name, data)))
            except baselines.LeftOut as reason:
                result["left_out"][name] = str(reason)
    return result


def evaluate_new(
    judged: ArtifactWriter, served: ArtifactWriter, dataset: Dataset, stages: Stages, note: Callable[[str], None]
) -> dict[str, Any]:
    """`evaluate` of `judged` as it is so far. With `diversity: auto` it also decides on diversity: 0 in the settings of
    both writers if that has the better NDCG@10 on the judged users."""
    result = evaluate(judged.preview(), dataset, stages)
    auto = stages.ranking.config.diversity == "auto"
    if not auto or result["funnel, no diversity"][METRIC] <= result["funnel"][METRIC]:
        return result
    judged.settings["diversity"] = 0.0
    without = evaluate(judged.preview(), dataset, stages, compare=False)
    before, after = result["funnel"][METRIC], without["funnel"][METRIC]
    if after <= before:  # rules or the cap cost it, not diversity
        del judged.settings["diversity"]
        return result
    served.settings["diversity"] = 0.0
    note(f"diversity: auto is 0 for this model: NDCG@10 is {after:.4f}, with {AUTO_DIVERSITY} it is {before:.4f}")
    return result | without


def _funnel(
    artifact: Artifact, dataset: Dataset, stages: Stages, history: Interactions, held_out: HeldOutUsers
) -> dict[str, Any]:
    funnel = OfflineFunnel(artifact, stages, dataset.event_types)
    answers, by_retrieval, by_score, candidate_lists = [], [], [], []
    source_lists: dict[str, list[Ints]] = {name: [] for name in funnel.candidates.sources}
    for start in range(0, len(held_out), BATCH):
        users = held_out.users[start : start + BATCH]
        starts = np.searchsorted(history.user_E, users).tolist()
        ends = np.searchsorted(history.user_E, users, side="right").tolist()
        now_B = held_out.time_U[start : start + BATCH]
        histories = funnel.histories(history, starts, ends, now_B, [dataset.users[user] for user in users])
        requests, profiles, candidates, scores, ranked = funnel.answer(histories, DEPTH)
        answers.append(_items(candidates, ranked))
        by_score.append(_items(candidates, score_order(requests, candidates, scores)))
        by_retrieval.append(_items(candidates, score_order(requests, candidates, retrieval_scores(candidates))))
        candidate_lists.append(candidates.item_ids_BK)
        for name, items in funnel.candidates.lists(requests, profiles).items():
            source_lists[name].append(items[:, :DEPTH])
    all_candidates = np.concatenate(candidate_lists)
    return {
        "funnel": held_out(np.concatenate(answers)),
        "funnel, no diversity": held_out(np.concatenate(by_score)),
        "funnel, scoring lost": held_out(np.concatenate(by_retrieval)),
        "sources": {name: held_out(np.concatenate(lists)) for name, lists in source_lists.items()},
        "candidates": {
            "recall": held_out.recall(all_candidates),
            "recall@100": held_out.recall(all_candidates[:, :DEPTH]),
            "ceiling": held_out.ceiling(all_candidates),
            "per_request": float((all_candidates >= 0).sum(axis=1).mean()),
        },
    }


def _items(candidates: CandidateBatch, ranked: RankedBatch) -> Ints:
    """The items of the answers [B, DEPTH], -1 padded."""
    chosen: Bools = ranked.choice_BN >= 0
    item_BN = np.take_along_axis(candidates.item_ids_BK, np.maximum(ranked.choice_BN, 0), axis=1)
    padded = np.full((len(item_BN), DEPTH), -1, np.int32)
    padded[:, : item_BN.shape[1]] = np.where(chosen, item_BN, -1)
    return padded
