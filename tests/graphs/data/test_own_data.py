"""README's line for own data on folders as people make them, and on the cases that once failed: loaded and checked."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deployments.errors import DataError
from graphs.config import RecommenderArgs
from graphs.config_file import load, recommender_args
from graphs.data.dataset import Dataset, load_dataset
from graphs.data.training_checks import check_trainable
from tests.support.paths import ROOT
from tests.support.toy_data import events, items

CASES = Path(os.environ.get("RAYFUNNEL_DATA_CASES", ROOT.parent / "shared" / "cases"))


@pytest.fixture(scope="module")
def shipped() -> RecommenderArgs:
    """The configuration as shipped."""
    return recommender_args(load(f"{ROOT}/serve_config.yaml"))


def by_pandas(folder: Path) -> None:
    events().sample(frac=1, random_state=0).to_parquet(folder / "interactions.parquet")
    frame = items().astype({"color": "category"})
    frame.assign(in_stock=True, added=pd.Timestamp("2023-01-01"), brand=None).to_parquet(folder / "items.parquet")


def by_spark(folder: Path) -> None:
    for name, frame in (("interactions", events()), ("items.parquet", items())):
        (folder / name).mkdir()
        for part, rows in enumerate(np.array_split(frame.index, 3)):
            frame.loc[rows].to_parquet(folder / name / f"part-{part:05d}.snappy.parquet", index=False)
        (folder / name / "_SUCCESS").touch()


def by_csv(folder: Path) -> None:
    stamps = pd.to_datetime(events().timestamp, unit="s").dt.strftime("%Y-%m-%d %H:%M:%S")
    events().assign(timestamp=stamps).to_csv(folder / "interactions.csv")
    items().to_csv(folder / "items.csv")


def interactions_alone(folder: Path) -> None:
    events().assign(timestamp=lambda f: f.timestamp * 1000).to_parquet(folder / "interactions.parquet")


def delisted_items(folder: Path) -> None:
    events().to_json(folder / "interactions.jsonl", orient="records", lines=True)
    items().head(50).to_parquet(folder / "items.parquet")


@pytest.mark.parametrize("make", [by_pandas, by_spark, by_csv, interactions_alone, delisted_items])
def test_folders_as_people_make_them_can_be_trained_on_as_shipped(
    make: Callable[[Path], None], tmp_path: Path, shipped: RecommenderArgs
) -> None:
    make(tmp_path)
    dataset = load_dataset(str(tmp_path), shipped.events)
    assert (len(dataset.interactions), len(dataset.users), len(dataset.items)) == (480, 40, 60)
    assert sorted(set(dataset.interactions.timestamp_E)) == sorted({float(each) for each in events().timestamp})
    notes = check_trainable(dataset, shipped)
    assert [note.split(" is 300")[0] for note in notes] == ["stages.candidates.config.n_candidates"]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of make_cases.py."""
    if not (CASES / "make_cases.py").exists():
        pytest.skip(f"there is no {CASES}/make_cases.py")
    spec = importlib.util.spec_from_file_location("make_cases", CASES / "make_cases.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = tmp_path_factory.mktemp("cases")
    for name, make in module.cases(out).items():
        make(out / name)
    return out


def case(cases: Path, name: str, shipped: RecommenderArgs) -> Dataset:
    """The case, loaded and checked."""
    dataset = load_dataset(str(cases / name), shipped.events)
    check_trainable(dataset, shipped)
    return dataset


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("no-genres", "features of items: color, price"),
        ("nanoseconds", "no time zone; it is read as UTC"),
        ("category-ids", "480 events of 40 users"),
        ("bool-feature", "features of items: color, price, in_stock"),
        ("all-null", "items.parquet: left out: brand (empty)"),
        ("shuffled-index", "items.parquet: left out: __index_level_0__ (an index of pandas)"),
        ("delisted", "1 item of 130 in interactions.parquet not in items.parquet, such as 'gone': kept"),
        ("no-items-file", "there is no file of items: the 129 items of interactions.parquet are taken"),
        ("consume-again", "items stay in answers after history"),
        ("giant-user", "1 user with more than 2,500 events, such as 'bot' with 50,000"),
        ("view-then-purchase", "view 480 (weight 0.4), purchase 480 (weight 1, success)"),
        ("carts", "view 160 (weight 0.4), cart 160 (weight 0.8, success), purchase 160 (weight 1, success)"),
        ("future", "480 of 480 events in the future"),
    ],
)
def test_what_once_failed_loads_and_says_so(cases: Path, shipped: RecommenderArgs, name: str, note: str) -> None:
    assert any(note in each for each in case(cases, name, shipped).notes)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("empty-user", "column user_id has empty ids in 1 row, the first '' in row 0"),
        ("long-id", "column item_id has ids of more than 256 characters in 2 rows, the first 'i5xxx"),
    ],
)
def test_ids_that_the_api_refuses_are_refused_before_training(
    cases: Path, shipped: RecommenderArgs, name: str, fault: str
) -> None:
    with pytest.raises(DataError) as refused:
        case(cases, name, shipped)
    assert fault in str(refused.value)
