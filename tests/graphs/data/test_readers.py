"""Tables in files: formats, folders of parts, partitions, URIs; and what is said of files that can't be read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.errors import DataError
from graphs.data.dataset import Dataset, load_dataset
from tests.support.toy_data import events, items


def lines(frame: pd.DataFrame) -> str:
    """JSON lines."""
    return "".join(f"{json.dumps(row)}\n" for row in frame.to_dict("records"))


def spark(frame: pd.DataFrame, folder: Path) -> None:
    """As Spark writes: two parts, checksums, _SUCCESS."""
    folder.mkdir()
    for part, rows in enumerate((frame.iloc[:100], frame.iloc[100:])):
        name = f"part-{part:05d}-tid-1-c000.snappy.parquet"
        rows.to_parquet(folder / name, index=False)
        (folder / f".{name}.crc").write_bytes(b"crc")
    (folder / "_SUCCESS").touch()
    (folder / "._SUCCESS.crc").write_bytes(b"crc")


def gzipped(text: str) -> bytes:
    return gzip.compress(text.encode())


SHAPES: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "interactions.parquet": lambda frame, path: frame.to_parquet(path),
    "interactions.pq": lambda frame, path: frame.to_parquet(path),
    "interactions.csv": lambda frame, path: frame.to_csv(path, index=False),
    "interactions.csv.gz": lambda frame, path: path.write_bytes(gzipped(frame.to_csv(index=False))),
    "interactions.tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "interactions.jsonl": lambda frame, path: path.write_text(lines(frame)),
    "interactions.ndjson": lambda frame, path: path.write_text(lines(frame)),
    "interactions.json": lambda frame, path: path.write_text(lines(frame)),
    "interactions.jsonl.gz": lambda frame, path: path.write_bytes(gzipped(lines(frame))),
    "interactions": spark,
    "interactions.parquet/": spark,
}


@pytest.mark.parametrize("name", SHAPES)
def test_each_format_and_folder_of_parts_gives_the_same_events(name: str, tmp_path: Path) -> None:
    SHAPES[name](events(), tmp_path / name.rstrip("/"))
    items().to_parquet(tmp_path / "items.parquet")
    dataset = load_dataset(str(tmp_path))
    assert (len(dataset.interactions), len(dataset.users), len(dataset.items)) == (480, 40, 60)
    shown = f"{name.rstrip('/')}/" if SHAPES[name] is spark else name
    assert dataset.notes[0] == f"{tmp_path.name}: 480 events of 40 users on 60 items, from {shown}, items.parquet"


def test_a_file_alone_is_taken_as_the_events(tmp_path: Path) -> None:
    events().to_csv(tmp_path / "log.csv", index=False)
    dataset = load_dataset(str(tmp_path / "log.csv"))
    assert dataset.notes[0] == "log: 480 events of 40 users on 60 items, from log.csv"


def test_the_folder_that_spark_wrote_is_taken_as_the_events(tmp_path: Path) -> None:
    spark(events(), tmp_path / "out")
    assert len(load_dataset(str(tmp_path / "out")).interactions) == 480


def test_hive_partitions_become_columns(tmp_path: Path) -> None:
    for day, rows in events().groupby(events().index % 3):
        folder = tmp_path / "interactions" / f"day=2023-11-{14 + int(str(day))}"
        folder.mkdir(parents=True)
        rows.drop(columns="timestamp").to_parquet(folder / "part-0.parquet")
    dataset = load_dataset(str(tmp_path), columns="timestamp=day")
    assert set(dataset.interactions.timestamp_E) == {1_699_920_000.0, 1_700_006_400.0, 1_700_092_800.0}
    assert load_dataset(str(tmp_path / "interactions"), columns="timestamp=day").users == dataset.users


def test_parts_may_lack_a_column_or_have_it_narrower(tmp_path: Path) -> None:
    folder = tmp_path / "interactions"
    folder.mkdir()
    pq.write_table(
        pa.table({"user_id": pa.array([1], pa.int32()), "item_id": ["a"], "timestamp": [1]}), folder / "0.pq"
    )
    later = {"user_id": pa.array([2**40]), "item_id": ["b"], "timestamp": [2.5], "weight": [1.0]}
    pq.write_table(pa.table(later), folder / "1.pq")
    dataset = load_dataset(str(tmp_path))
    assert dataset.users == ["1", str(2**40)]
    assert dataset.interactions.timestamp_E.tolist() == [1.0, 2.5]


@pytest.mark.parametrize("name", ["", "/interactions.parquet"])
def test_any_fsspec_uri_is_read(name: str) -> None:
    memory = fsspec.filesystem("memory")
    with memory.open("/shop/interactions.parquet", "wb") as file:
        events().to_parquet(file)
    try:
        dataset = load_dataset(f"memory://shop{name}")
        assert len(dataset.interactions) == 480
        assert "from interactions.parquet" in dataset.notes[0]
    finally:
        memory.rm("/shop", recursive=True)


def test_a_file_uri_is_read(tmp_path: Path) -> None:
    events().to_parquet(tmp_path / "interactions.parquet")
    assert len(load_dataset(tmp_path.as_uri()).interactions) == 480


def test_ids_in_csv_keep_their_leading_zeros(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n007,01,1\n7,1,2\n")
    dataset = load_dataset(str(tmp_path))
    assert (dataset.users, dataset.items.column("item_id").to_pylist()) == (["007", "7"], ["01", "1"])
    (tmp_path / "interactions.csv").write_text("who,item_id,timestamp\n007,01,1\n7,1,2\n")
    assert load_dataset(str(tmp_path), columns="user_id=who").users == ["007", "7"]


@pytest.mark.parametrize(
    "text",
    [
        "user_id;item_id;timestamp\nu;a;1\nv;b;2\n",
        "user_id\titem_id\ttimestamp\nu\ta\t1\nv\tb\t2\n",
        "\ufeffuser_id,item_id,timestamp\r\nu,a,1\r\nv,b,2\r\n",
        'user_id,item_id,timestamp,note\nu,a,1,"two\nlines"\nv,b,2,x\n',
    ],
    ids=["semicolons", "tabs", "byte order mark", "lines in quotes"],
)
def test_csv_files_of_other_programs_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "interactions.csv").write_bytes(text.encode())
    assert load_dataset(str(tmp_path)).users == ["u", "v"]


@pytest.mark.parametrize(("late", "kind"), [("2.5", "double"), ("x", "string")])
def test_a_csv_column_that_changes_its_type_far_down_is_read_as_a_wider_one(
    tmp_path: Path, late: str, kind: str
) -> None:
    events().to_parquet(tmp_path / "interactions.parquet")
    padding = "x" * 1000
    rows = [f"i{i},{late if i == 19_999 else i},{padding}" for i in range(20_000)]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,size,note", *rows]))
    assert str(load_dataset(str(tmp_path)).items.schema.field("size").type) == kind


def test_times_in_json_that_change_their_precision_are_read(tmp_path: Path) -> None:
    row = '{"user_id": "u%d", "item_id": "a", "timestamp": "2026-01-01T00:00:00%s"}\n'
    text = "".join(row % (n, "") for n in range(120_000)) + row % (0, ".5")
    (tmp_path / "interactions.jsonl").write_text(text)
    assert load_dataset(str(tmp_path)).interactions.timestamp_E.max() == 1_767_225_600.5


def broken(tmp_path: Path, files: dict[str, bytes]) -> str:
    """The error of a folder with these files."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as refused:
        load_dataset(str(tmp_path))
    return str(refused.value)


CSV = b"user_id,item_id,timestamp\nu,a,1\n"


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "has no interactions.parquet (nor .csv, .jsonl, …, nor a folder interactions); it has none"),
        ({"events.csv": CSV}, "it has events.csv; name it in data.yaml: interactions: events.csv"),
        ({"interaction.csv": CSV}, "name it in data.yaml: interactions: interaction.csv"),
        (
            {"interactions.csv": CSV, "interactions.parquet": b"x"},
            "has interactions.csv and interactions.parquet; remove all but one, or name it in data.yaml",
        ),
        ({"interactions.parquet": b"no parquet"}, "interactions.parquet is not readable Parquet: "),
        ({"interactions.csv": b""}, "interactions.csv is not readable CSV: CSV parse error: Empty CSV file"),
        ({"interactions.csv": CSV + b"\xe5\xe6,b,2\n"}, "invalid UTF8 data; write it as UTF-8"),
        ({"interactions.csv": CSV + b"u,a,1,2\n"}, "Expected 3 columns, got 4"),
        ({"interactions.csv": b"user_id,user_id\n1,2\n"}, "multiple columns named user_id"),
        ({"interactions.json": b'[{"user_id": 1}]\n'}, "it should hold one JSON object per line"),
        ({"interactions.xlsx": b"x"}, "has no interactions.parquet"),
        ({"interactions/a.txt": b"x"}, "interactions/ holds no file that is read (it has a.txt)"),
        ({"interactions/_SUCCESS": b""}, "interactions/ holds no file that is read (it is empty)"),
        (
            {"interactions/a.csv": CSV, "interactions/b.jsonl": b"{}"},
            "files of several formats, such as a.csv and b.js",
        ),
        ({"interactions.csv": b"196,242,881250949\n186,302,891717742\n"}, "it seems to have no header line: add one"),
    ],
    ids=str,
)
def test_what_can_not_be_read_is_said_with_the_remedy(tmp_path: Path, files: dict[str, bytes], sentence: str) -> None:
    assert sentence in broken(tmp_path, files)


def test_parts_that_disagree_are_named(tmp_path: Path) -> None:
    (tmp_path / "interactions").mkdir()
    for name, user in (("a", "u"), ("b", 1)):
        pq.write_table(pa.table({"user_id": [user]}), tmp_path / "interactions" / f"{name}.parquet")
    assert "Field user_id has incompatible types" in broken(tmp_path, {})


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("/nowhere/data", "/nowhere/data does not exist; --data takes `movielens`, a folder"),
        ("nonsense://data", "nonsense://data can't be opened: Protocol not known: nonsense"),
    ],
)
def test_a_place_that_does_not_exist_is_named(data: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        load_dataset(data)


def test_other_files_in_a_folder_of_parts_are_ignored_and_said(tmp_path: Path) -> None:
    spark(events(), tmp_path / "interactions")
    (tmp_path / "interactions" / "README.txt").write_text("how it was made")
    dataset: Dataset = load_dataset(str(tmp_path))
    assert "interactions/: ignored: README.txt" in dataset.notes
