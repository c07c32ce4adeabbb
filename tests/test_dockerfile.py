"""The Dockerfile against what it must agree with. No image is built here."""

from __future__ import annotations

import re
import tomllib

import yaml

from cluster.kubernetes.ray_service import USER
from tests.support.paths import ROOT

TEXT = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text("utf-8"))
INSTRUCTIONS = [line for line in TEXT.splitlines() if line and not line.startswith("#")]
DEFAULTS = dict(line.removeprefix("ARG ").split("=", 1) for line in INSTRUCTIONS if line.startswith("ARG "))
COPIED = [
    re.sub(r"\$\{(\w+)\}", lambda name: DEFAULTS[name[1]], source)
    for line in INSTRUCTIONS
    if line.startswith("COPY ")
    for source in line.split()[1:-1]
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split("\n")
    assert "*" in ignored
    for source in COPIED:
        assert f"!{source.split('/')[0]}" in ignored, source
        assert source == DEFAULTS["ARTIFACT"] or (ROOT / source).exists(), source


def test_every_package_is_copied_and_all_of_its_data_installed() -> None:
    packages = [pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
    assert set(packages) <= set(COPIED)
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for package in ("deployments", "cluster"):  # these read files of theirs when they serve
        every = (path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        files = {path for path in every if path.suffix != ".py"}
        installed = {path for pattern in data[package] for path in (ROOT / package).glob(pattern)}
        assert files == installed


def test_torch_is_that_of_the_makefile_and_python_the_tested_one() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (pinned,) = re.findall(r"torch==\S+", makefile)
    assert re.findall(r"torch==\S+", TEXT) == [pinned]
    assert pinned in (ROOT / "constraints.txt").read_text("utf-8").split()
    (tested,) = re.findall(r"the tests run on (\d+\.\d+)\.", makefile)
    assert INSTRUCTIONS[0].startswith(f"FROM python:{tested}-slim")


def test_whatever_is_installed_is_pinned() -> None:
    installs = re.findall(r"pip install[^;&\n]*", TEXT)
    assert len(installs) == 3
    assert all("-c constraints.txt" in install for install in installs)


def test_the_image_runs_as_the_user_of_the_manifests() -> None:
    (name,) = re.findall(r"^USER (\w+)$", TEXT, re.MULTILINE)
    assert f"useradd --uid {USER} --create-home --shell /bin/bash {name}" in TEXT
    last_root = max(n for n, line in enumerate(INSTRUCTIONS) if "pip install" in line)
    assert INSTRUCTIONS.index(f"USER {name}") > last_root


def test_the_profiles_name_the_images_that_the_comments_build() -> None:
    built = re.findall(r"docker build -t (\S+)", (ROOT / "Dockerfile").read_text("utf-8"))
    for profile in ("cpu", "gpu"):
        assert (
            yaml.safe_load((ROOT / f"cluster/kubernetes/profiles/{profile}.yaml").read_text("utf-8"))["image"] in built
        )
    assert f":{PROJECT['project']['version']}-" in built[0]
