"""Every field of a pydantic model is described by the docstring under it, and by nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGES = ("graphs", "deployments", "cluster", "monitoring")


def classes() -> dict[str, tuple[Path, ast.ClassDef]]:
    """Every class of the four packages, by module and name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef):
                    found[f"{path.relative_to(ROOT)}:{node.name}"] = path, node
    return found


CLASSES = classes()


def models() -> dict[str, ast.ClassDef]:
    """The pydantic models: BaseModel's heirs, and theirs."""
    names, found = {"BaseModel"}, dict[str, ast.ClassDef]()
    while True:
        more = {
            where: node
            for where, (_, node) in CLASSES.items()
            if where not in found and any(ast.unparse(base).split(".")[-1] in names for base in node.bases)
        }
        if not more:
            return found
        found |= more
        names |= {node.name for node in more.values()}


MODELS = models()


def fields(node: ast.ClassDef) -> list[tuple[str, ast.stmt, ast.stmt | None]]:
    """Name and statement of each field, and the statement after it."""
    following = [*node.body[1:], None]
    return [
        (each.target.id, each, after)
        for each, after in zip(node.body, following, strict=True)
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    ]


def test_the_models_are_found() -> None:
    names = {where.rsplit(":", 1)[1] for where in MODELS}
    assert {"RecommenderArgs", "ScorerConfig", "RecommendRequest", "Profile", "AlertValues", "Manifest"} <= names


@pytest.mark.parametrize("where", MODELS)
def test_every_field_has_a_docstring_under_it(where: str) -> None:
    missing = [
        name
        for name, _, after in fields(MODELS[where])
        if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value)
    ]
    assert missing == []


@pytest.mark.parametrize("where", MODELS)
def test_no_field_is_described_elsewhere(where: str) -> None:
    assert [name for name, field, _ in fields(MODELS[where]) if "description=" in ast.unparse(field)] == []


@pytest.mark.parametrize(
    "where", [where for where, node in MODELS.items() if "BaseModel" in map(ast.unparse, node.bases)]
)
def test_pydantic_reads_the_docstrings(where: str) -> None:
    assert "use_attribute_docstrings=True" in ast.unparse(MODELS[where])
