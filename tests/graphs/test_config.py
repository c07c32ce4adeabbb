"""serve_config.yaml: its numbers, and one-sentence errors for wrong keys and values."""

from __future__ import annotations

import copy
import importlib
import json
import resource
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.serve.config import DeploymentActorConfig

from deployments.errors import ConfigError
from graphs.commands.serve import MAXCONN, environment
from graphs.config import STAGES, RecommenderArgs, parse_args
from graphs.config_file import checked, load, recommender_args
from graphs.recommendation import _drift
from tests.support.paths import ROOT

CONFIG = "serve_config.yaml"


@pytest.fixture(autouse=True)
def _at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_config_file_of_the_repository_is_valid_and_names_every_stage() -> None:
    config = load(CONFIG)
    assert {app["import_path"] for app in config["applications"]} == {
        "graphs.store:build",
        "graphs.recommendation:build",
    }
    recommender = next(app for app in config["applications"] if app["name"] == "recommender")
    assert set(recommender["args"]["stages"]) == set(STAGES)


def test_the_store_and_its_client_agree_on_the_port() -> None:
    store, recommender = load(CONFIG)["applications"]
    assert store["args"]["port"] == recommender["args"]["store"]["port"]


def test_by_default_three_stages_are_deployments_and_profiles_run_in_the_ingress() -> None:
    placement = {name: getattr(recommender_args(load(CONFIG)).stages, name).placement for name in STAGES}
    assert placement == {
        "profile": "ingress",
        "candidates": "replica",
        "scoring": "replica",
        "ranking": "replica",
    }


def test_everything_fits_on_two_cores_also_while_a_redeploy_runs_it_twice() -> None:
    config = load(CONFIG)
    args = recommender_args(config)
    replicas = [getattr(args.stages, name) for name in STAGES]
    cpus = sum(s.num_cpus * s.replicas for s in replicas if s.placement == "replica")
    assert 2 * (cpus + args.ingress.num_cpus * args.ingress.replicas) + 0.1 <= 2 + 1e-9


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({}, "args.artifact is missing; add it"),
        ({"artefact": "x", "artifact": "y"}, "args.artefact is not a known key"),
        ({"artifact": "x", "ingress": {"replicas": -1}}, "args.ingress.replicas = -1"),
        ({"artifact": "x", "stages": {"scoring": {"num_gpus": 1.5}}}, "must be a fraction in (0, 1], a whole number"),
        ({"artifact": "x", "stages": {"scoring": {"num_gpus": -0.5}}}, "args.stages.scoring.num_gpus = -0.5"),
        ({"artifact": "x", "stages": {"scoring": {"placement": "moon"}}}, "'replica' or 'ingress'"),
        (
            {"artifact": "x", "stages": {"candidates": {"placement": "ingress", "shards": 2}}},
            "set placement to replica",
        ),
        ({"artifact": "x", "stages": {"scoring": {"config": {"precision": "fp4"}}}}, "scoring.config.precision"),
        ({"artifact": "x", "stages": {"scoring": {"replicas": 3, "max_replicas": 2}}}, "replicas 3 must lie within"),
        ({"artifact": "x", "batcher": {"max_batch": 0}}, "args.batcher.max_batch = 0"),
        ({"artifact": "x", "store": {"redis_url": "http://x"}}, "redis://"),
        ({"artifact": "x", "store": {"redis_url": "redis://:secret@x"}}, "holds a password"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_is_accepted(args: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        parse_args(RecommenderArgs, args)
    assert sentence in str(wrong.value)
    assert "\n" not in str(wrong.value)
    assert "secret" not in str(wrong.value)


SHIPPED = yaml.safe_load((ROOT / CONFIG).read_text("utf-8"))
KeyPath = tuple[str | int, ...]


def _paths(value: Any, here: KeyPath = ()) -> list[KeyPath]:
    """Of every value below `args:` of the applications, mappings and lists included."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    found = [path for key, each in items for path in _paths(each, (*here, key))]
    return [here, *found] if "args" in here else found


def _at(path: KeyPath) -> Any:
    value: Any = SHIPPED
    for key in path:
        value = value[key]
    return value


def _changed(path: KeyPath, value: Any) -> dict[str, Any]:
    config: dict[str, Any] = copy.deepcopy(SHIPPED)
    parent: Any = config
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return config


def _error(config: Any) -> str:
    """The text of the ConfigError; empty: there is none. Any other exception fails the test."""
    try:
        checked(config, CONFIG)
    except ConfigError as error:
        return str(error)
    return ""


PATHS = _paths(SHIPPED)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), each, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(PATHS), VALUES)
def test_any_other_value_parses_or_is_an_error_that_names_its_path(path: KeyPath, value: Any) -> None:
    if error := _error(_changed(path, value)):
        *parents, name = (".".join(map(str, path[2:end])) for end in range(3, len(path) + 1))
        own = (f"{name} ", f"{name}.")
        of_several_fields = tuple(f"{parent} = " for parent in parents)
        assert error.startswith(own + of_several_fields), error
        assert "\n" not in error


def test_a_key_with_a_line_break_is_named_on_one_line() -> None:
    with pytest.raises(ConfigError, match=r"args\.a\\nb is not a known key"):
        checked(_changed(("applications", 1, "args", "a\nb"), 1), CONFIG)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from([path for path in PATHS if isinstance(_at(path), dict)]), st.integers(0, 99))
def test_an_unknown_key_is_an_error_that_names_it(path: KeyPath, number: int) -> None:
    if path[-1] in ("finished_by", "types"):  # their keys are data
        return
    key = f"unknown_{number}"
    with pytest.raises(ConfigError) as wrong:
        checked(_changed((*path, key), number), CONFIG)
    assert f"{'.'.join(map(str, path[2:]))}.{key} is not a known key" in str(wrong.value)


@given(VALUES)
def test_any_content_of_a_file_is_a_config_or_an_error(content: Any) -> None:
    for config in (content, {"applications": content}, {"applications": [content]}):
        error = _error(config)
        assert not error or error.startswith(f"{CONFIG}: `applications`")


def test_the_shipped_policy_takes_the_numbers_that_the_config_gives_it() -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text("utf-8"))
    policy = next(app for app in config["applications"] if app["name"] == "recommender")["autoscaling_policy"]
    module, _, name = policy["policy_function"].partition(":")
    getattr(importlib.import_module(module), name)(**policy["policy_kwargs"])


@pytest.mark.parametrize("gpus", [0, 0.25, 1, 2])
def test_fractions_and_whole_gpus_are_accepted(gpus: float) -> None:
    args = parse_args(RecommenderArgs, {"artifact": "x", "stages": {"scoring": {"num_gpus": gpus}}})
    assert args.stages.scoring.num_gpus == gpus


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("applications: [", "is not YAML"),
        ("applications: {}", "`applications` must be a list"),
        ("{}", "`applications` must be a list"),
        (yaml.safe_dump({"applications": [{"import_path": "graphs.recommendation:build", "args": {}}]}), "artifact"),
    ],
)
def test_a_config_file_that_can_not_work_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        load(str(path))


def test_a_missing_config_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        load("nowhere.yaml")


def test_variables_of_the_environment_win_over_serve_env(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "7")
    flags = environment()
    assert flags["RAY_worker_niceness"] == "7"
    assert flags["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"


@pytest.mark.parametrize(
    ("most_files", "connections"), [(20_000, "7960"), (1_048_576, "16384"), (resource.RLIM_INFINITY, "16384")]
)
def test_haproxy_gets_no_more_connections_than_it_may_open_files_for(
    monkeypatch: pytest.MonkeyPatch, most_files: int, connections: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, most_files))
    assert environment()[MAXCONN] == connections


def test_the_config_of_the_drift_actor_has_plain_values_only() -> None:
    """Serve sends it to every handle, and a caller may run without our code."""
    args = parse_args(RecommenderArgs, {"artifact": "x"})
    (actor,) = _drift(args, "x")
    assert isinstance(actor, DeploymentActorConfig)
    artifact, model_version, settings, logs = actor.init_args
    assert (artifact, model_version) == ("x", "")
    assert json.loads(json.dumps([settings, logs])) == [settings, logs]
    assert _drift(parse_args(RecommenderArgs, {"artifact": "x", "drift": {"enabled": False}}), "x") == []
