"""Offline evaluation: the whole funnel, stage by stage as served, beside the baselines on the same temporal split.

Shapes: U test users, N items, K candidates, T places in an answer.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from deployments.artifact.reader import Artifact
from deployments.messages import Array, Bools, CandidateBatch, Ints, RankedBatch
from deployments.models.features.user_features import UserFeatures
from deployments.pipeline.request import Query, request_batch
from deployments.stages.candidates import CandidateGenerator
from deployments.stages.fallbacks import retrieval_scores, score_order
from deployments.stages.profile import Profiles
from deployments.stages.ranking import Ranker
from deployments.stages.scoring import Scorer
from graphs.config import RecommenderArgs, Stages
from graphs.data.dataset import Dataset, Interactions, load, temporal_split
from graphs.evaluation import baselines
from graphs.evaluation.results_file import write_section
from graphs.fit.ranker import history_rows

DEPTH = 100
"""Length of the answers that are judged."""

COLUMNS = ("ndcg@10", "hit_rate@10", "recall@50", "recall@100", "coverage@10", "novelty@10")
_STEP = 64


class HeldOutUsers:
    """Scores lists of items against the test set.

    NDCG with binary gains (Järvelin & Kekäläinen 2002), the ideal being min(10, |test|) hits; Recall = hits / |test|;
    coverage = share of the catalogue that the answers show; novelty = mean of -log2(share of users who had the item).
    """

    def __init__(self, train: Interactions, test: Interactions, n_items: int) -> None:
        self.users = np.unique(test.user_E)
        row_of_user = np.full(int(max(train.user_E.max(), test.user_E.max())) + 1, -1)
        row_of_user[self.users] = np.arange(len(self.users))
        self.wanted_UN = np.zeros((len(self.users), n_items), np.bool_)
        self.wanted_UN[row_of_user[test.user_E], test.item_E] = True
        self.seen_UN = np.zeros_like(self.wanted_UN)
        of_test_users = row_of_user[train.user_E] >= 0
        self.seen_UN[row_of_user[train.user_E[of_test_users]], train.item_E[of_test_users]] = True
        self.wanted_UN &= ~self.seen_UN  # a repeat is no answer, since what was seen is excluded
        had_N = np.zeros(n_items)
        pairs = np.unique(np.stack([train.user_E, train.item_E]), axis=1)
        np.add.at(had_N, pairs[1], 1)
        self._novelty_N = -np.log2((had_N + 1) / (len(np.unique(train.user_E)) + 1))

    def __call__(self, item_UT: Ints) -> dict[str, float]:
        """The metrics of answers [U, T], best first, -1 padded."""
        item_UT = np.pad(item_UT, ((0, 0), (0, max(0, DEPTH - item_UT.shape[1]))), constant_values=-1)
        real_UT = item_UT >= 0
        hit_UT = np.take_along_axis(self.wanted_UN, np.maximum(item_UT, 0), axis=1) & real_UT
        wanted_U = np.maximum(self.wanted_UN.sum(axis=1), 1)
        discount = 1 / np.log2(np.arange(2, 12))
        ideal_U = np.cumsum(discount)[np.minimum(10, wanted_U) - 1]
        shown = item_UT[:, :10][real_UT[:, :10]]
        return {
            "ndcg@10": float(((hit_UT[:, :10] * discount).sum(axis=1) / ideal_U).mean()),
            "hit_rate@10": float(hit_UT[:, :10].any(axis=1).mean()),
            "recall@50": float((hit_UT[:, :50].sum(axis=1) / wanted_U).mean()),
            "recall@100": float((hit_UT[:, :100].sum(axis=1) / wanted_U).mean()),
            "coverage@10": len(np.unique(shown)) / self.wanted_UN.shape[1],
            "novelty@10": float(self._novelty_N[shown].mean()) if len(shown) else 0.0,
        }

    def recall(self, item_UT: Ints) -> float:
        """Share of the test items within lists of any length."""
        hit_UT = np.take_along_axis(self.wanted_UN, np.maximum(item_UT, 0), axis=1) & (item_UT >= 0)
        return float((hit_UT.sum(axis=1) / np.maximum(self.wanted_UN.sum(axis=1), 1)).mean())

    def top(self, score_UN: Array) -> Ints:
        """The DEPTH best unseen items [U, T] of scores [U, N]."""
        score_UN = np.where(self.seen_UN, -np.inf, score_UN)
        return np.argsort(-score_UN, axis=1, kind="stable")[:, :DEPTH].astype(np.int32)


def evaluate(artifact: Artifact, dataset: Dataset, stages: Stages, compare: bool = True) -> dict[str, Any]:
    """The evaluation table: `funnel` (as served), its oracles and sources, and the `baselines`."""
    train, test = temporal_split(dataset.interactions)
    judge = HeldOutUsers(train, test, len(dataset.items))
    result: dict[str, Any] = {
        "data": dataset.name,
        "test_users": len(judge.users),
        "test_events": len(test),
        **_funnel(artifact, dataset, stages, train, judge),
    }
    if compare:
        result["baselines"] = {
            name: judge(judge.top(baselines.scores(name, train, len(dataset.items), judge.users)))
            for name in baselines.METHODS
        }
    return result


def _funnel(
    artifact: Artifact, dataset: Dataset, stages: Stages, train: Interactions, judge: HeldOutUsers
) -> dict[str, Any]:
    user_features = UserFeatures(artifact)
    profile_stage = Profiles(artifact, stages.profile.config)
    generator = CandidateGenerator(artifact, stages.candidates.config)
    scorer, ranker = Scorer(artifact, stages.scoring.config), Ranker(artifact, stages.ranking.config)
    answers, by_retrieval, by_score, unions = [], [], [], []
    lists: dict[str, list[Ints]] = {name: [] for name in generator.sources}
    for start in range(0, len(judge.users), _STEP):
        users = judge.users[start : start + _STEP]
        starts = np.searchsorted(train.user_E, users)
        ends = np.searchsorted(train.user_E, users, side="right")
        requests = request_batch([Query(user_id="", n=DEPTH, deadline=0.0)] * len(users), artifact.model_version)
        features_BF = user_features([dataset.users[user] for user in users])
        histories = history_rows(train, starts.tolist(), ends.tolist(), features_BF, artifact.model_version)
        profiles = profile_stage(histories)
        candidates = generator(requests, profiles)
        scores = scorer(profiles, candidates)
        answers.append(_items(candidates, ranker(requests, candidates, scores)))
        by_score.append(_items(candidates, score_order(requests, candidates, scores)))
        by_retrieval.append(_items(candidates, score_order(requests, candidates, retrieval_scores(candidates))))
        unions.append(candidates.item_ids_BK)
        for name, found in generator.lists(requests, profiles).items():
            lists[name].append(found[:, :DEPTH])
    union = np.concatenate(unions)
    return {
        "funnel": judge(np.concatenate(answers)),
        "funnel, no diversity": judge(np.concatenate(by_score)),
        "funnel, scoring lost": judge(np.concatenate(by_retrieval)),
        "sources": {name: judge(np.concatenate(found)) for name, found in lists.items()},
        "candidates": {
            "recall": judge.recall(union),
            "recall@100": judge.recall(union[:, :DEPTH]),
            "per_request": float((union >= 0).sum(axis=1).mean()),
        },
    }


def _items(candidates: CandidateBatch, ranked: RankedBatch) -> Ints:
    chosen: Bools = ranked.choice_BN >= 0
    item_BN = np.take_along_axis(candidates.item_ids_BK, np.maximum(ranked.choice_BN, 0), axis=1)
    padded = np.full((len(item_BN), DEPTH), -1, np.int32)
    padded[:, : item_BN.shape[1]] = np.where(chosen, item_BN, -1)
    return padded


def rows(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float]]]:
    """The table's rows, in the order in which they are shown."""
    funnel = [(name, result[name]) for name in ("funnel", "funnel, no diversity", "funnel, scoring lost")]
    return (
        funnel + list(result.get("baselines", {}).items()) + [(f"source: {n}", m) for n, m in result["sources"].items()]
    )


def lead(result: Mapping[str, Any]) -> tuple[str, float]:
    """The best baseline by NDCG@10, and the funnel's NDCG@10 over its."""
    best = max(result["baselines"], key=lambda name: result["baselines"][name]["ndcg@10"])
    return best, result["funnel"]["ndcg@10"] / result["baselines"][best]["ndcg@10"]


def show(result: Mapping[str, Any], console: Console) -> None:
    """Prints the table."""
    table = Table("method", *COLUMNS, title=f"{result['data']}: {result['test_users']} users, temporal split")
    for name, metrics in rows(result):
        table.add_row(name, *(f"{metrics[column]:.4f}" for column in COLUMNS))
    console.print(table)
    union = result["candidates"]
    console.print(
        f"candidates, all sources: {union['per_request']:.0f} per request, recall {union['recall']:.4f}, "
        f"recall@100 {union['recall@100']:.4f}"
    )
    if "baselines" in result:
        best, ratio = lead(result)
        console.print(f"NDCG@10 is {ratio:.3f} x that of the best baseline ({best})")


def markdown(result: Mapping[str, Any], model_version: str, command: str) -> str:
    """The table as a section of benchmarks/RESULTS.md."""
    lines = [
        "## Quality of the recommendations",
        "",
        f"`{command}` on {datetime.now(UTC):%Y-%m-%d}: {platform.machine()}, Python {platform.python_version()}, "
        f"torch {version('torch')}, model {model_version}.",
        "",
        f"Data: {result['data']}. Per user with at least 5 successes (rating of 4 or more), the last 20 % of them by "
        f"time are the test set ({result['test_events']} events of {result['test_users']} users); what came before is "
        "the history, and is excluded from every answer. The baselines are tuned on a validation cut of the training "
        "part (benchmarks/tune_baselines.py).",
        "",
        "| method | " + " | ".join(COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for name, metrics in rows(result):
        lines.append(f"| {name} | " + " | ".join(f"{metrics[column]:.4f}" for column in COLUMNS) + " |")
    union = result["candidates"]
    lines += [
        "",
        f"All sources together bring {union['per_request']:.0f} candidates per request, with recall "
        f"{union['recall']:.4f} (first 100: {union['recall@100']:.4f}). `funnel` is what serve_config.yaml serves; "
        "`scoring lost` is what its fallback gives.",
    ]
    if "baselines" in result:
        best, ratio = lead(result)
        lines += ["", f"**The funnel's NDCG@10 is {ratio:.3f} times that of the best baseline ({best}).**"]
    return "\n".join(lines) + "\n"


def report(artifact: str, data: str, config: RecommenderArgs, out: str, command: str) -> None:
    """Evaluates an artifact and writes its section of benchmarks/RESULTS.md."""
    opened = Artifact.open(artifact)
    result = evaluate(opened, load(data, config.store), config.stages)
    show(result, Console())
    write_section(out, markdown(result, opened.model_version, command))
