"""--columns and data.yaml: names of columns and tables, and what is suggested for a missing one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from deployments.errors import DataError
from graphs.data.data_file import DataConfig
from graphs.data.dataset import Dataset, load_dataset
from tests.support.toy_data import events, items

THEIRS = {"user_id": "customer_id", "item_id": "sku", "timestamp": "ts"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Events and items with names of their own."""
    events().rename(columns=THEIRS).to_csv(tmp_path / "interactions.csv", index=False)
    items().rename(columns={"item_id": "sku", "title": "name"}).to_csv(tmp_path / "items.csv", index=False)
    return tmp_path


def refused(folder: Path, columns: str = "") -> str:
    """The error."""
    with pytest.raises(DataError) as error:
        load_dataset(str(folder), columns=columns)
    return str(error.value)


def test_the_error_for_other_names_has_the_option_that_works(folder: Path) -> None:
    said = refused(folder)
    assert said == (
        "interactions.csv: columns user_id, item_id, timestamp are missing; the file has: customer_id, sku, ts; "
        "perhaps --columns user_id=customer_id,item_id=sku,timestamp=ts; items.csv: column item_id is missing; the "
        "file has: sku, name, color, price; perhaps --columns items.item_id=sku"
    )
    dataset = load_dataset(str(folder), columns="user_id=customer_id,item_id=sku,timestamp=ts")
    assert (len(dataset.interactions), len(dataset.items)) == (480, 60)
    assert dataset.items.column_names == ["item_id", "name", "color", "price"]


def test_titles_and_columns_of_one_table_can_be_named(folder: Path) -> None:
    items().rename(columns={"item_id": "id", "title": "name"}).to_csv(folder / "items.csv", index=False)
    named = "user_id=customer_id, item_id=sku, timestamp=ts, items.item_id=id, title=name"
    assert load_dataset(str(folder), columns=named).items.column_names == ["item_id", "title", "color", "price"]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ("user_id", "--columns: 'user_id' is not NAME=COLUMN; write --columns user_id=customer,item_id=sku"),
        ("user=customer", "'user' is none of the columns that are read"),
        ("user_idd=customer_id", "did you mean user_id?"),
        (
            "user_id=custmer_id,item_id=sku,timestamp=ts",
            "column custmer_id (named for user_id) is missing; the file has: customer_id, sku, ts; perhaps --columns "
            "user_id=customer_id",
        ),
        ("user_id=sku,item_id=sku,timestamp=ts", "column sku can't be both user_id and item_id"),
    ],
)
def test_wrong_names_are_said_with_the_nearest(folder: Path, columns: str, sentence: str) -> None:
    assert sentence in refused(folder, columns)


@pytest.mark.parametrize(
    ("name", "field"),
    [("userId", "user_id"), ("visitorid", "user_id"), ("USER", "user_id"), ("parent_asin", "item_id"),
     ("movieId", "item_id"), ("product_id", "item_id"), ("event_time", "timestamp"), ("created_at", "timestamp"),
     ("Timestamp", "timestamp"), ("t_dat", "timestamp"), ("user_idx", "user_id")],
)  # fmt: skip
def test_usual_names_are_suggested(tmp_path: Path, name: str, field: str) -> None:
    events().rename(columns={field: name}).to_csv(tmp_path / "interactions.csv", index=False)
    assert f"perhaps --columns {field}={name}" in refused(tmp_path)


def write_yaml(folder: Path, **content: object) -> None:
    (folder / "data.yaml").write_text(yaml.safe_dump(content))


def test_data_yaml_names_files_columns_ratings_and_types(folder: Path) -> None:
    frame = events().rename(columns=THEIRS).assign(stars=[1, 5, 4, 2] * 120)
    (folder / "logs").mkdir()
    frame.to_parquet(folder / "logs" / "a.parquet")
    (folder / "interactions.csv").unlink()
    write_yaml(
        folder,
        interactions="logs",
        items="items.csv",
        columns={**THEIRS, "title": "name"},
        weight={"column": "stars", "success_from": 4},
        event_type="purchase",
        time_unit="s",
    )
    for data in (folder, folder / "data.yaml"):
        dataset = load_dataset(str(data))
        assert dataset.event_types == ["purchase"]
        assert dataset.interactions.success_E.mean() == 0.5
        assert dataset.notes[0].endswith("from logs/, items.csv")


def test_the_option_comes_before_the_file(folder: Path) -> None:
    write_yaml(folder, columns={"user_id": "nobody", "item_id": "sku", "timestamp": "ts"})
    assert len(load_dataset(str(folder), columns="user_id=customer_id").users) == 40


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("interaction: a.csv", "data.yaml: interaction is not a known key; did you mean interactions?"),
        ("weight: {column: a, succes_from: 4}", "weight.succes_from is not a known key; did you mean success_from?"),
        ("weight: {column: a}", "data.yaml: weight.success_from is missing; add it"),
        (
            "interactions: interaction.csv",
            "interactions = 'interaction.csv' does not exist; did you mean interactions.c",
        ),
        ("time_unit: hours", "data.yaml: time_unit = 'hours'"),
        ("max_events_per_user: 1", "data.yaml: max_events_per_user = 1: Input should be greater than or equal to 10"),
        ("columns: {user_idd: a}", "did you mean user_id?"),
        ("- a", "data.yaml: should be a mapping"),
        ("{", "data.yaml is not YAML"),
    ],
)
def test_a_wrong_data_yaml_is_said_with_the_nearest_key(folder: Path, content: str, sentence: str) -> None:
    (folder / "data.yaml").write_text(content)
    assert sentence in refused(folder)


def test_one_type_for_all_and_a_column_of_types_exclude_each_other(tmp_path: Path) -> None:
    events().assign(event_type="view").to_csv(tmp_path / "interactions.csv", index=False)
    write_yaml(tmp_path, event_type="purchase")
    assert "has a column event_type, and data.yaml says event_type for all; keep one" in refused(tmp_path)


def test_columns_besides_the_named_ones_are_not_taken_for_them(tmp_path: Path) -> None:
    events().to_csv(tmp_path / "interactions.csv", index=False)
    frame = items().assign(code=items().item_id, item_id=range(60))
    frame.to_csv(tmp_path / "items.csv", index=False)
    dataset: Dataset = load_dataset(str(tmp_path), columns="items.item_id=code")
    assert dataset.items.column_names == ["item_id", "title", "color", "price"]
    assert "items.csv: left out: item_id (another column is named for it)" in dataset.notes


def test_an_empty_option_changes_nothing() -> None:
    assert DataConfig().with_columns("") == DataConfig()
