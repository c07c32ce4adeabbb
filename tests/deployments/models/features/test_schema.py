"""schema.json: strict, the same after a round trip, and enough to compute the stored features again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from deployments.artifact.reader import Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.errors import ArtifactError
from deployments.models.features.arrow_columns import table_features
from deployments.models.features.ranker_inputs import own_event_names
from deployments.models.features.ranking_features import RankingFeatures
from deployments.models.features.schema import SCHEMA_FILE, Schema
from deployments.models.features.transforms import AsIs, Column, MultiHot, Project, Standardise
from deployments.models.features.user_features import FEATURES_FILE, IDS_FILE, UserFeatures
from tests.support.paths import ROOT

COLUMNS = [
    Column(
        name="tags",
        source="item",
        dtype="string",
        shape=(None,),
        missing=0.0,
        transform=MultiHot(values=("rød", "b"), buckets=2, seed=3),
    ),
    Column(
        name="price",
        source="item",
        dtype="float64",
        shape=(),
        missing=0.0,
        transform=Standardise(log=True, center=1.5, scale=0.1, clip=5.0),
    ),
    Column(
        name="image",
        source="item",
        dtype="float32",
        shape=(2,),
        missing=0.0,
        transform=Project(mean=(0.5, 0.25), axes=((1.0, 0.0),), clip=5.0),
    ),
    Column(
        name="age",
        source="user",
        dtype="int64",
        shape=(),
        missing=0.0,
        transform=Standardise(log=False, center=30.0, scale=9.0, clip=5.0),
    ),
]


def written(folder: Path, schema: Schema) -> Artifact:
    with ArtifactWriter(folder) as writer:
        schema.write(writer)
    return Artifact.open(str(folder))


def test_the_items_features_are_the_catalogue_under_the_schema(artifact: Artifact) -> None:
    found = table_features(Schema.load(artifact).of_source("item"), artifact.table("catalogue.arrow"))
    stored = artifact.tensors("item_features.safetensors")
    assert found.content_NC.any()
    np.testing.assert_array_equal(found.content_NC, stored["content_NC"])
    assert found.attributes == ["year"]
    np.testing.assert_array_equal(found.attributes_NA, stored["attributes_NA"][:, :1])


def test_the_users_features_are_their_columns_under_the_schema(artifact: Artifact) -> None:
    schema, table = Schema.load(artifact), artifact.table(IDS_FILE)
    found = table_features(schema.of_source("user"), table)
    assert schema.user_features == ["country=NO", "age"] == UserFeatures(artifact).names
    stored = artifact.tensors(FEATURES_FILE)["features_UF"]
    np.testing.assert_array_equal(np.concatenate([found.content_NC, found.attributes_NA], axis=1), stored)


def test_the_ranking_features_are_named_in_the_order_of_the_file(artifact: Artifact) -> None:
    listed = [entry["name"] for entry in artifact.json(SCHEMA_FILE)["ranker"]]
    assert RankingFeatures(artifact).names == listed
    assert len(set(listed)) == len(listed)


def test_a_schema_is_the_same_after_a_round_trip(tmp_path: Path) -> None:
    schema = Schema.of(["popular"], COLUMNS)
    again = Schema.load(written(tmp_path / "a", schema))
    assert again == schema
    assert again.item_attributes == ["price", "image.axis_1", "popularity", "quality"]
    raw = written(tmp_path / "b", schema).json(SCHEMA_FILE)
    assert tuple(Column.of(entry) for entry in raw["columns"]) == schema.columns


def test_types_and_ages_of_events_are_columns_where_answers_may_contain_own_items(
    tmp_path: Path, shop_artifact: Artifact
) -> None:
    names = [[column.name for column in schema.of_source("history")] for schema in map(of_types, ([], ["view", "buy"]))]
    assert names == [["item", "weight", "age"], ["item", "weight", "age", "type"]]
    for types in (None, [], ["view", "buy"]):
        schema = Schema.load(written(tmp_path / f"{types}", of_types(types)))
        assert schema.event_types == (None if types is None else tuple(types))
        own = [feature.name for feature in schema.ranker if feature.name.startswith(("own:", "user_share:"))]
        assert own == ([] if types is None else own_event_names(types))
        assert [feature.name for feature in schema.ranker][len(schema.ranker) - len(own) :] == own, "the last ones"
    assert RankingFeatures(shop_artifact).names[-1] == "user_share:purchase"


def of_types(types: list[str] | None) -> Schema:
    return Schema.of(["popular"], COLUMNS, types)


def test_the_model_version_covers_the_schema(tmp_path: Path) -> None:
    one, other = (written(tmp_path / name, Schema.of([name])) for name in ("a", "b"))
    assert one.model_version != other.model_version


def test_an_artifact_without_schema_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "a") as writer:
        writer.json("x.json", {})
    with pytest.raises(ArtifactError, match=r"has no file schema.json; train one"):
        Schema.load(Artifact.open(str(tmp_path / "a")))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"center": 1.5', '"center": NaN', r"columns.\d.transform.Standardise.center: Input should be a finite number"),
        ('"center": 1.5', '"center": 1e999', r"Standardise.center: Input should be a finite number"),
        ('"center": 1.5', '"center": "1.5"', r"Standardise.center: Input should be a valid number"),
        ('"center": 1.5, ', "", r"Standardise.center: Field required"),
        ('"scale": 0.1', '"scale": 0.0', r"scale and clip must be more than 0"),
        ('"log": true', '"log": 1', r"Standardise.log: Input should be a valid boolean"),
        ('["rød", "b"]', '["b", "b"]', r"values must differ"),
        ('"buckets": 2', '"buckets": -1', r"there must be values or buckets"),
        ('"mean": [0.5, 0.25]', '"mean": [0.5]', r"axes, each as long as mean"),
        ('"kind": "project"', '"kind": "pickle"', r"transform.*kind: Input should be"),
        ('"dtype": "int64"', '"dtype": "blob"', r"columns.\d.dtype: Input should be"),
        ('"name": "age"', '"name": "age", "secret": 1', r"columns.\d.secret: Unexpected keyword"),
        ('"name": "price"', '"name": "tags"', r"two columns of one source have the same name"),
        ('"name": "item:log_events"', '"name": "item:luck"', r"ranker does not list the inputs that this version"),
        ('"version": 1', '"version": 2', r"version: Input should be 1"),
        ("}\n ]\n}", "}\n ]", r"Invalid JSON"),
    ],
)
def test_a_file_that_is_no_strict_schema_is_refused_naming_the_field(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with ArtifactWriter(tmp_path / "a") as writer:
        Schema.of(["popular"], COLUMNS).write(writer)
        path = writer.file(SCHEMA_FILE)
        text = path.read_text("utf-8")
        assert text.count(old) == 1
        path.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(ArtifactError, match=message):
        Schema.load(Artifact.open(str(tmp_path / "a")))


def test_the_excerpt_of_the_documentation_is_a_schema() -> None:
    page = (ROOT / "docs" / "schema.md").read_text("utf-8")
    lines = page.split("```json\n", 1)[1].split("```", 1)[0].splitlines()
    columns = TypeAdapter(list[Column]).validate_json(f"[{','.join(lines)}]", strict=True)
    assert len({column.source for column in columns}) == 5
    assert {type(column.transform) for column in columns} == {AsIs, Standardise, MultiHot, Project}


def test_no_reader_meets_nan_in_the_file(artifact: Artifact) -> None:
    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    json.loads(artifact.path(SCHEMA_FILE).read_text("utf-8"), parse_constant=refuse)
