"""A module added to any folder falls under an import contract of pyproject.toml."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT

CONFIG: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
PACKAGES: list[str] = CONFIG["root_packages"]
ADDED = "added_by_a_test"


def folders() -> list[Path]:
    """Every folder with Python files, relative to the root."""
    return sorted({path.parent.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*.py")}, key=str)


def children(folder: Path) -> set[str]:
    """The modules and packages directly in a folder."""
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    return modules | {path.parent.name for path in folder.glob("*/__init__.py")}


def contract(kind: str, **fields: Any) -> dict[str, Any]:
    """The one contract of this type with these fields."""
    (found,) = (
        one
        for one in CONFIG["contracts"]
        if one["type"] == kind and all(one.get(key) == value for key, value in fields.items())
    )
    return dict(found)


def test_every_folder_is_a_package() -> None:
    """Import-linter skips a folder without `__init__.py`, and every module in it."""
    assert [str(folder) for folder in folders() if not (ROOT / folder / "__init__.py").is_file()] == []


def test_the_contracts_are_about_the_four_packages() -> None:
    assert PACKAGES == ["graphs", "deployments", "cluster", "monitoring"]
    assert contract("acyclic_siblings")["ancestors"] == PACKAGES


LAYERED = [package for one in CONFIG["contracts"] if one.get("exhaustive") for package in one["containers"]]


def test_every_top_level_package_has_exhaustive_layers() -> None:
    assert set(PACKAGES) <= set(LAYERED)


@pytest.mark.parametrize("package", LAYERED)
def test_every_child_of_a_layered_package_has_its_layer(package: str) -> None:
    layers = contract("layers", containers=[package])["layers"]
    named = {name.strip() for layer in layers for name in re.split(r"[|:]", layer)}
    assert named == children(ROOT / package.replace(".", "/"))


@pytest.mark.parametrize(
    "path",
    [
        *sorted(path for path in (ROOT / "cluster" / "autoscaling").glob("*.py") if path.stem != "serve_adapter"),
        *sorted((ROOT / "cluster" / "gpus").glob("*.py")),
    ],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_the_policy_imports_the_standard_library_and_cluster_alone(path: Path) -> None:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names.add((node.module or "").partition(".")[0])
    assert names - sys.stdlib_module_names <= {"cluster"}


def test_a_new_module_that_imports_ray_breaks_a_contract_in_every_folder_where_ray_is_not_allowed(
    tmp_path: Path,
) -> None:
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    allowed = contract("protected", protected_modules=["ray"])["allowed_importers"]
    added = []
    for folder in folders():
        module = ".".join(folder.parts)
        if not any(module == one or module.startswith(f"{one}.") for one in allowed):
            (tmp_path / folder / f"{ADDED}.py").write_text("import ray\n")
            added.append(f"{module}.{ADDED}")
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "500"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert [module for module in added if not re.search(rf"{re.escape(module)} -> ray\b", done.stdout)] == []
    for package in LAYERED:  # a module without a layer is named too
        if f"{package}.{ADDED}" in added:
            assert f"\n- {package}.{ADDED}\n" in done.stdout
