"""`rayfunnel evaluate`: a refitted model is judged on newer events alone."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.artifact.reader import Artifact
from graphs.commands.evaluate import evaluate_artifact
from tests.support.small_dataset import ITEMS, small_args, write_dataset


@pytest.fixture
def refitted(tmp_path: Path, artifact: Artifact, dataset_folder: Path) -> str:
    """The artifact made by hand, as one that was refitted on all events of the small data set."""
    from deployments.artifact.writer import ArtifactWriter

    newest = max(pq.read_table(dataset_folder / "interactions.parquet").column("timestamp").to_pylist())
    figures = {
        "ndcg@10": 0.5,
        "hit_rate@10": 0.5,
        "recall@50": 0.5,
        "recall@100": 0.5,
        "coverage@10": 0.5,
        "novelty@10": 1.0,
    }
    with ArtifactWriter(tmp_path / "refitted") as writer:
        writer.copy_from(artifact)
        writer.settings = writer.settings | {"refit": True, "fitted_until": newest}
        writer.metrics = {
            "data": "small", "split": "per user", "scoring": "eager fp32", "test_users": 80, "test_events": 400,
            "figures_of": "the unrefitted twin", "sources": {}, "baselines": {"ease": figures | {"ndcg@10": 0.6}},
            "judged": {"share_of_users": 1.0, "drawn_from": 80, "answerable": 1.0, "nothing_left": 0, "cold_users": 0},
            "candidates": {"recall": 1.0, "recall@100": 1.0, "ceiling": 1.0, "per_request": 100.0},
            **dict.fromkeys(("funnel", "funnel, no diversity", "funnel, scoring lost"), figures),
        }  # fmt: skip
    return str(tmp_path / "refitted")


def test_on_the_data_of_its_training_the_figures_are_those_of_the_twin(
    refitted: str, dataset_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "RESULTS.md"
    verdict = evaluate_artifact(refitted, str(dataset_folder), small_args(""), str(out), "the command")
    printed = capsys.readouterr().out
    assert "and small has no later target: these are the figures of its training" in printed
    assert "| ease | 0.6000 |" in out.read_text()
    assert "These are the figures of the unrefitted twin." in out.read_text()
    assert verdict is not None
    assert verdict.beaten
    assert printed.splitlines()[-1].startswith("A BASELINE WINS: ease")


def test_on_newer_events_it_is_judged_by_them_alone_and_unknown_items_are_counted(
    refitted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = write_dataset(tmp_path / "newer")
    events, items = (pq.read_table(newer / f"{name}.parquet") for name in ("interactions", "items"))
    rows = [(f"u{user}", f"i{(7 * user) % ITEMS}") for user in range(30)] + [("u1", "a-new-item")]
    users, names = zip(*rows, strict=True)
    later = {"user_id": users, "item_id": names, "timestamp": [1.75e9] * len(rows), "weight": [1.0] * len(rows)}
    pq.write_table(pa.concat_tables([events, pa.table(later)]), newer / "interactions.parquet")
    new_item = {"item_id": ["a-new-item"], "title": ["New"], "genres": [["Drama"]], "year": [2020.0]}
    pq.write_table(pa.concat_tables([items, pa.table(new_item)]), newer / "items.parquet")
    evaluate_artifact(refitted, str(newer), small_args(""), str(tmp_path / "RESULTS.md"), "the command")
    printed = capsys.readouterr().out
    assert "1 of " in printed
    assert "events are on items that the model does not know: left out" in printed
    judged = re.search(
        r"Judged: (\d+) users .* by (\d+) events: the targets of all users from 2025-06-15T15:06:40", printed
    )
    assert judged, printed
    assert 0 < int(judged[1]) == int(judged[2]) <= 30, "the newer ones alone"
    assert "figures of its training" not in printed
