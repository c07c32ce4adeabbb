"""The ranking stage: score order, rules, cap and diversity, one by one and together.

Longer than 300 lines: the steps change each other's results, so their tests share one set of helpers.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from deployments.artifact.reader import Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.errors import ConfigError
from deployments.messages import PAD, CandidateBatch, RankedBatch, RequestBatch, ScoreBatch, pad_columns
from deployments.stages.ranking import Ranker, RankerConfig
from tests.contracts.stage_contract import StageContract

N_ITEMS, DIMENSION = 120, 8
GENRES = ["action", "comedy", "drama", None]
GENRE_N = [GENRES[i % 4] for i in range(N_ITEMS)]
Inputs = tuple[RequestBatch, CandidateBatch, ScoreBatch]

RULES: tuple[dict[str, Any], ...] = (
    {"name": "fresh", "action": "boost", "where": {"year": {"gte": 2000}}, "amount": 0.5},
    {"name": "old", "action": "bury", "where": {"genre": "drama"}, "amount": 1.0, "when": {"device": "tv"}},
    {"name": "house", "action": "pin", "where": {"genre": "comedy"}, "position": 3},
)
EVERYTHING = RankerConfig.model_validate(
    {"diversity": 0.3, "diversity_pool": 15, "category": "genre", "category_cap": 2, "rules": RULES}
)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return build_artifact(tmp_path_factory.mktemp("ranking"))


def build_artifact(folder: Path) -> Artifact:
    random = np.random.default_rng(3)
    with ArtifactWriter(folder / "model") as writer:
        vectors_ND = random.normal(size=(N_ITEMS, DIMENSION)).astype(np.float32)
        vectors_ND[7] = 0.0
        writer.tensors("items.safetensors", {"item_vectors_ND": vectors_ND})
        ids = [f"i{n}" for n in range(N_ITEMS)]
        writer.table(
            "catalogue.arrow",
            pa.table({"item_id": ids, "genre": GENRE_N, "year": [1950.0 + n for n in range(N_ITEMS)]}),
        )
    return Artifact.open(str(folder / "model"))


def batch(
    artifact: Artifact,
    items: list[list[int]],
    scores: list[list[float]],
    n: list[int],
    contexts: tuple[dict[str, Any], ...] = (),
    given: list[list[int]] | None = None,
) -> Inputs:
    """Ragged rows as messages; row i has context i, if there is one."""
    version, b = artifact.model_version, len(items)
    k = max(map(len, items), default=0)

    def table(rows: list[list[Any]], fill: float, dtype: type, width: int) -> Any:
        return np.array([[*row, *[fill] * (width - len(row))] for row in rows], dtype).reshape(b, width)

    items_BK = table(items, PAD, np.int32, k)
    scores_BK = table(scores, -np.inf, np.float32, k)
    given = given or [[]] * b
    requests = RequestBatch(
        model_version=version,
        n_B=np.array(n, np.int32).reshape(b),
        excluded_BX=np.full((b, 0), PAD, np.int32),
        given_BG=table(given, PAD, np.int32, max(map(len, given), default=0)),
        filter_B=np.full(b, PAD, np.int32),
        context_B=np.array([i if i < len(contexts) else PAD for i in range(b)], np.int32),
        contexts=contexts,
    )
    candidates = CandidateBatch(
        model_version=version,
        item_ids_BK=items_BK,
        retrieval_scores_BK=np.where(items_BK >= 0, scores_BK, 0),
        source_BK=np.where(items_BK >= 0, 0, PAD).astype(np.int8),
        source_scores_BKS=np.zeros((b, k, 1), np.float32),
        mask_BK=items_BK >= 0,
        sources=("popular",),
    )
    return requests, candidates, ScoreBatch(model_version=version, scores_BK=scores_BK)


def random_batch(artifact: Artifact, rows: int, seed: int = 0) -> Inputs:
    """Rows of 0 to 40 candidates with many tied scores, some with a context, some with given items."""
    random = np.random.default_rng(seed)
    sizes = [int(s) for s in random.integers(0, 40, rows)]
    items = [[int(i) for i in random.permutation(N_ITEMS)[:size]] for size in sizes]
    scores = [[float(s) for s in random.normal(size=size).round(1)] for size in sizes]
    n = [int(random.integers(1, 25)) for _ in sizes]
    contexts = tuple({"device": "tv" if row % 2 else "phone"} for row in range(rows // 2))
    given = [row if i == 1 else [] for i, row in enumerate(items)]
    return batch(artifact, items, scores, n, contexts, given)


def answered(ranked: RankedBatch, inputs: Inputs) -> list[list[int]]:
    """The items of each row's answer."""
    items_BK = inputs[1].item_ids_BK
    return [[int(items_BK[b, c]) for c in row if c >= 0] for b, row in enumerate(ranked.choice_BN)]


def rank(artifact: Artifact, inputs: Inputs, **config: Any) -> list[list[int]]:
    return answered(Ranker(artifact, RankerConfig.model_validate(config))(*inputs), inputs)


class TestRankerKeepsTheStageContract(StageContract):
    @pytest.fixture(params=[EVERYTHING, RankerConfig(), RankerConfig(diversity=0.0)], ids=["all", "default", "plain"])
    def stage(self, request: pytest.FixtureRequest, artifact: Artifact) -> Ranker:
        self.artifact = artifact
        return Ranker(artifact, request.param)

    def batches(self, n: int) -> Inputs:
        return random_batch(self.artifact, n)


@st.composite
def inputs_of(draw: st.DrawFn, artifact: Artifact) -> Inputs:
    rows = draw(
        st.lists(
            st.lists(st.tuples(st.integers(0, N_ITEMS - 1), st.integers(-3, 3)), max_size=30, unique_by=lambda c: c[0]),
            max_size=4,
        )
    )
    n = [draw(st.integers(1, 35)) for _ in rows]
    items, scores = [[c[0] for c in row] for row in rows], [[c[1] / 2 for c in row] for row in rows]
    return batch(artifact, items, scores, n, ({"device": "tv"},))


configs = st.builds(
    RankerConfig.model_validate,
    st.fixed_dictionaries(
        {
            "diversity": st.sampled_from([0.0, 0.1, 0.7, 1.0]),
            "diversity_pool": st.sampled_from([1, 4, 100]),
            "category": st.just("genre"),
            "category_cap": st.integers(0, 3),
            "rules": st.lists(st.sampled_from(RULES), max_size=4),
        }
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.data(), configs)
def test_an_answer_has_the_requested_number_of_candidates_each_once(
    artifact: Artifact, data: st.DataObject, config: RankerConfig
) -> None:
    inputs = data.draw(inputs_of(artifact))
    ranked = Ranker(artifact, config)(*inputs)
    assert ranked.choice_BN.shape == (len(inputs[0]), int(inputs[0].n_B.max(initial=0)))
    for row, items in enumerate(answered(ranked, inputs)):
        mask_K = inputs[1].mask_BK[row]
        assert len(items) == len(set(items)) == min(int(inputs[0].n_B[row]), int(mask_K.sum()))
        assert set(items) <= set(inputs[1].item_ids_BK[row][mask_K].tolist())


@settings(max_examples=80, deadline=None)
@given(st.data(), configs)
def test_the_order_of_the_candidates_does_not_matter(
    artifact: Artifact, data: st.DataObject, config: RankerConfig
) -> None:
    requests, candidates, scores = inputs = data.draw(inputs_of(artifact))
    width = candidates.mask_BK.shape[1]
    order = np.array(data.draw(st.permutations(range(width))), np.int64)
    shuffled_columns = {
        name: getattr(candidates, name)[:, order] for name, dims in candidates._columns() if dims[1:2] == "K"
    }
    shuffled = (
        requests,
        CandidateBatch(model_version=candidates.model_version, sources=candidates.sources, **shuffled_columns),
        ScoreBatch(model_version=scores.model_version, scores_BK=scores.scores_BK[:, order]),
    )
    ranker = Ranker(artifact, config)
    assert answered(ranker(*shuffled), shuffled) == answered(ranker(*inputs), inputs)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_without_diversity_and_rules_it_is_the_exact_score_order(artifact: Artifact, data: st.DataObject) -> None:
    inputs = data.draw(inputs_of(artifact))
    ranked = Ranker(artifact, RankerConfig(diversity=0.0))(*inputs)
    for row, items in enumerate(answered(ranked, inputs)):
        score = dict(zip(inputs[1].item_ids_BK[row].tolist(), inputs[2].scores_BK[row].tolist(), strict=True))
        score.pop(PAD, None)
        expected = sorted(score, key=lambda item: (-score[item], item))[: len(items)]
        assert items == expected
        assert ranked.score_rank_BN[row, : len(items)].tolist() == list(range(len(items)))
        assert ranked.score_BN[row, : len(items)].tolist() == [score[item] for item in items]


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 3), st.sampled_from([0.0, 0.5]), st.booleans())
def test_a_category_has_no_more_answers_than_its_cap_when_that_is_possible(
    artifact: Artifact, data: st.DataObject, cap: int, diversity: float, pinned: bool
) -> None:
    inputs = data.draw(inputs_of(artifact))
    rules = RULES[2:] if pinned else ()
    answers = rank(artifact, inputs, diversity=diversity, category="genre", category_cap=cap, rules=rules)
    for row, items in enumerate(answers):
        there = Counter(GENRE_N[i] for i in inputs[1].item_ids_BK[row] if i != PAD)
        possible = sum(min(count, cap) if genre else count for genre, count in there.items())
        if possible >= len(items):
            counts = Counter(GENRE_N[i] for i in items if GENRE_N[i])
            assert max(counts.values(), default=0) <= cap


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 12), st.sampled_from([0.0, 0.5]))
def test_a_pinned_item_is_at_its_position(
    artifact: Artifact, data: st.DataObject, position: int, diversity: float
) -> None:
    inputs = data.draw(inputs_of(artifact))
    pin = {"name": "p", "action": "pin", "where": {"genre": "comedy"}, "position": position}
    ranker = Ranker(artifact, RankerConfig.model_validate({"diversity": diversity, "rules": [pin]}))
    ranked = ranker(*inputs)
    for row, items in enumerate(answered(ranked, inputs)):
        if position <= len(items) and any(GENRE_N[i] == "comedy" for i in inputs[1].item_ids_BK[row] if i != PAD):
            assert GENRE_N[items[position - 1]] == "comedy"
            assert ranked.rule_BN[row, position - 1] == 0
        assert (ranked.rule_BN[row] == 0).sum() <= 1


def naive_mmr(vectors_ND: np.ndarray, items: list[int], scores: list[float], n: int, strength: float) -> list[int]:
    unit_ND = vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-9)
    low, high = min(scores), max(scores)
    relevance = {i: (s - low) / (high - low) for i, s in zip(items, scores, strict=True)}
    chosen: list[int] = []
    while len(chosen) < n:

        def value(item: int) -> float:
            closest = max((float(unit_ND[item] @ unit_ND[other]) for other in chosen), default=0.0)
            return (1 - strength) * relevance[item] - strength * max(0.0, closest)

        chosen.append(max((i for i in items if i not in chosen), key=value))
    return chosen


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.9])
def test_diversity_is_maximal_marginal_relevance(artifact: Artifact, strength: float) -> None:
    random = np.random.default_rng(5)
    items = [int(i) for i in random.permutation(N_ITEMS)[:50]]
    scores = random.normal(size=50).tolist()
    vectors_ND = artifact.tensors("items.safetensors")["item_vectors_ND"][:, :-1]
    found = rank(artifact, batch(artifact, [items], [scores], [20]), diversity=strength)
    assert found == [naive_mmr(vectors_ND, items, scores, 20, strength)]


def test_diversity_auto_is_what_training_found(artifact: Artifact) -> None:
    random = np.random.default_rng(6)
    inputs = batch(artifact, [random.permutation(N_ITEMS)[:50].tolist()], [random.normal(size=50).tolist()], [20])
    found_costly = Artifact(artifact.folder, artifact.manifest.model_copy(update={"settings": {"diversity": 0.0}}))
    assert rank(artifact, inputs) == rank(artifact, inputs, diversity=0.1) != rank(artifact, inputs, diversity=0.0)
    assert rank(found_costly, inputs) == rank(artifact, inputs, diversity=0.0)
    assert rank(found_costly, inputs, diversity=0.1) == rank(artifact, inputs, diversity=0.1)


def test_diversity_does_not_depend_on_the_scale_of_the_scores(artifact: Artifact) -> None:
    items = [list(range(40))]
    scores = np.random.default_rng(1).integers(0, 64, (1, 40)) / 64
    plain = rank(artifact, batch(artifact, items, scores.tolist(), [12]), diversity=0.5)
    assert rank(artifact, batch(artifact, items, (scores * 1024 - 8).tolist(), [12]), diversity=0.5) == plain


def test_an_answer_reports_the_diversity_penalty_of_each_item(artifact: Artifact) -> None:
    inputs = batch(artifact, [[10, 11, 12]], [[3.0, 2.0, 1.0]], [3])
    ranked = Ranker(artifact, RankerConfig(diversity=0.5))(*inputs)
    assert ranked.diversity_penalty_BN[0, 0] == 0.0
    assert (ranked.diversity_penalty_BN >= 0.0).all()


def test_items_beyond_the_diversity_pool_follow_in_score_order(artifact: Artifact) -> None:
    inputs = batch(artifact, [list(range(30))], [list(range(30, 0, -1))], [30])
    (items,) = rank(artifact, inputs, diversity=0.9, diversity_pool=5)
    assert sorted(items[:5]) == [0, 1, 2, 3, 4]
    assert items[5:] == list(range(5, 30))


def test_given_items_all_come_back(artifact: Artifact) -> None:
    items = [[5, 3, 9, 4], [1, 2, 3]]
    inputs = batch(artifact, items, [[0.1, 0.4, 0.2, 0.3], [1, 2, 3]], [1, 2], given=[[5, 3, 9, 4], []])
    assert rank(artifact, inputs, diversity=0.0) == [[3, 4, 9, 5], [3, 2]]


def test_boost_and_bury_move_by_deviations_of_the_request_s_scores(artifact: Artifact) -> None:
    inputs = batch(artifact, [[0, 1, 2, 3]], [[4.0, 3.0, 2.0, 1.0]], [4])
    boost = {"name": "up", "action": "boost", "item_ids": ["i3", "gone"], "amount": 1.0}
    bury = {"name": "down", "action": "bury", "where": {"genre": "action"}, "amount": 2.0}
    ranked = Ranker(artifact, RankerConfig.model_validate({"diversity": 0.0, "rules": [boost, bury]}))(*inputs)
    deviation = np.std([4.0, 3.0, 2.0, 1.0])
    assert answered(ranked, inputs) == [[1, 3, 2, 0]]
    np.testing.assert_allclose(ranked.score_BN[0], [3, 1 + deviation, 2, 4 - 2 * deviation], rtol=1e-6)
    assert ranked.rule_BN[0].tolist() == [PAD, 0, PAD, 1]
    assert ranked.score_rank_BN[0].tolist() == [1, 3, 2, 0]


@pytest.mark.parametrize(
    ("when", "contexts", "moved"),
    [
        ({}, (), True),
        ({"device": "tv"}, (), False),
        ({"device": "tv"}, ({"device": "tv", "page": 2.0},), True),
        ({"device": "tv"}, ({"device": "phone"},), False),
        ({"device": "tv", "kids": True}, ({"device": "tv"},), False),
        ({"kids": True}, ({"kids": True},), True),
        ({"kids": True}, ({"kids": 1.0},), False),
        ({"page": 2}, ({"page": 2.0},), True),
    ],
)
def test_a_rule_applies_where_the_context_has_all_its_entries(
    artifact: Artifact, when: dict[str, Any], contexts: tuple[dict[str, Any], ...], moved: bool
) -> None:
    rule = {"name": "r", "action": "boost", "item_ids": ["i2"], "amount": 9.0, "when": when}
    inputs = batch(artifact, [[1, 2]], [[2.0, 1.0]], [2], contexts)
    assert rank(artifact, inputs, diversity=0.0, rules=[rule]) == [[2, 1] if moved else [1, 2]]


def test_the_earlier_of_two_pins_has_the_position(artifact: Artifact) -> None:
    pins = [{"name": i, "action": "pin", "item_ids": [i], "position": 1} for i in ("i3", "i4")]
    inputs = batch(artifact, [[1, 2, 3, 4]], [[4.0, 3.0, 2.0, 1.0]], [3])
    assert rank(artifact, inputs, rules=pins, diversity=0.0) == [[3, 1, 2]]


def test_a_pin_beyond_the_answer_or_the_candidates_does_nothing(artifact: Artifact) -> None:
    pins = [
        {"name": "far", "action": "pin", "item_ids": ["i3"], "position": 4},
        {"name": "absent", "action": "pin", "item_ids": ["i99"], "position": 1},
    ]
    inputs = batch(artifact, [[1, 2, 3], [1, 2, 3]], [[3.0, 2.0, 1.0]] * 2, [2, 9])
    assert rank(artifact, inputs, rules=pins, diversity=0.0) == [[1, 2], [1, 2, 3]]


def test_a_score_that_is_no_number_counts_as_the_worst(artifact: Artifact) -> None:
    inputs = batch(artifact, [[1, 2, 3, 4]], [[np.nan, 1.0, -np.inf, np.inf]], [4])
    assert rank(artifact, inputs) == [[4, 2, 1, 3]]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"category": "color", "category_cap": 1}, "ranking.category: 'color' is none of the catalogue's: genre"),
        ({"category": "year", "category_cap": 1}, "ranking.category: 'year'"),
        (
            {"rules": [{"name": "x", "action": "boost", "amount": 1, "where": {"color": "red"}}]},
            r"ranking.rules\[0\] \(x\): where: filters.color: no such attribute",
        ),
        (
            {"rules": [{"name": "x", "action": "pin", "position": 1, "item_ids": ["zz"]}]},
            r"ranking.rules\[0\] \(x\): item_ids: none is in the catalogue, e.g. 'zz'",
        ),
    ],
)
def test_a_configuration_the_catalogue_can_not_serve_is_refused(
    artifact: Artifact, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Ranker(artifact, RankerConfig.model_validate(config))


@pytest.mark.parametrize(
    "config",
    [
        {"diversity": 1.1},
        {"diversity": float("nan")},
        {"diversity_pool": 0},
        {"category_cap": 2},
        {"surprise": 1},
        {"rules": [{"name": "x", "action": "boost", "item_ids": ["a"]}]},
        {"rules": [{"name": "x", "action": "boost", "item_ids": ["a"], "amount": 1, "position": 2}]},
        {"rules": [{"name": "x", "action": "pin", "item_ids": ["a"]}]},
        {"rules": [{"name": "x", "action": "pin", "position": 1}]},
        {"rules": [{"name": "x", "action": "pin", "position": 1, "item_ids": ["a"], "where": {"genre": "drama"}}]},
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RankerConfig.model_validate(config)


def test_no_candidates_at_all_give_an_answer_of_padding(artifact: Artifact) -> None:
    inputs = batch(artifact, [[], []], [[], []], [3, 5])
    ranked = Ranker(artifact, EVERYTHING)(*inputs)
    np.testing.assert_array_equal(ranked.choice_BN, pad_columns(np.empty((2, 0), np.int32), 5), strict=True)


def test_a_category_without_a_cap_is_not_read(artifact: Artifact) -> None:
    inputs = batch(artifact, [[1, 2]], [[1.0, 2.0]], [2])
    assert rank(artifact, inputs, category="genres", category_cap=0) == rank(artifact, inputs)
