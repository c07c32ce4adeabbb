"""The RayService: what Kubernetes, KubeRay, Ray's autoscaler and Serve read of it, and what is refused.

(Over 300 lines: every claim is about one rendered manifest.)
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _generate_available_node_types_from_ray_cr_spec
from ray.serve.schema import ServeDeploySchema

from cluster.kubernetes.bin_packing import Replicas, Worker, without_room
from cluster.kubernetes.cluster_profile import Profile
from deployments.errors import ConfigError
from graphs.commands.kuberay import load_profile, manifest_of, notes, serve_config, write
from graphs.commands.serve import flags
from graphs.config import parse_args
from graphs.config_file import checked, load, recommender_args
from tests.support.paths import ROOT

SCHEMA = Path(
    os.environ.get("RAYFUNNEL_RAYSERVICE_SCHEMA", ROOT.parent / "shared" / "kuberay" / "rayservice.v1.schema.json")
)
NAMES = ("cpu", "gpu")
Manifest = dict[str, Any]


@pytest.fixture(autouse=True)
def _at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module", params=NAMES)
def manifest(request: pytest.FixtureRequest) -> Manifest:
    """What is written for a profile of the repository, as Kubernetes reads it."""
    with contextlib.chdir(ROOT):
        return made(load_profile(request.param))


def made(profile: Profile) -> Manifest:
    manifest: Manifest = yaml.safe_load(yaml.safe_dump(manifest_of(profile, load("serve_config.yaml"))))
    return manifest


def profile(name: str = "gpu", **changes: Any) -> Profile:
    """A profile of the repository with other values; `workers__gpu=None` names a nested one."""
    content = load_profile(name).model_dump(mode="json")
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = content
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return parse_args(Profile, content, "profile.")


def serve_of(manifest: Manifest) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    return config


def cluster_of(manifest: Manifest) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]["rayClusterConfig"]
    return spec


def pods(manifest: Manifest) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pod template of the head and of every group of workers."""
    spec = cluster_of(manifest)
    yield "head", spec["headGroupSpec"]["template"]
    for group in spec["workerGroupSpecs"]:
        yield group["groupName"], group["template"]


def containers(manifest: Manifest) -> dict[str, dict[str, Any]]:
    return {name: pod["spec"]["containers"][0] for name, pod in pods(manifest)}


def closed(schema: Any) -> Any:
    """The schema with no other keys than it lists: Kubernetes drops those silently."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    tight = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema and "type" in schema:
        tight["additionalProperties"] = False
    return tight


@pytest.mark.skipif(not SCHEMA.is_file(), reason=f"the schema of RayService is not at {SCHEMA}")
def test_kubernetes_accepts_every_key_and_value(manifest: Manifest) -> None:
    schema = closed(json.loads(SCHEMA.read_text("utf-8")))
    validator = jsonschema.Draft202012Validator(schema)
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)] == []
    wrong = copy.deepcopy(manifest)
    cluster_of(wrong)["headGroupSpec"]["template"]["spec"]["container"] = []
    assert [error.validator for error in validator.iter_errors(wrong)] == ["additionalProperties"]


def test_serve_and_the_application_accept_the_config(manifest: Manifest) -> None:
    config = serve_of(manifest)
    ServeDeploySchema.model_validate(config)
    checked(config, "serveConfigV2")


def test_the_served_config_is_the_one_in_the_repository_but_for_what_the_profile_says() -> None:
    """One source of truth: with a profile that lays nothing over it, every other key is that of serve_config.yaml."""
    given = load("serve_config.yaml")
    served = serve_config(profile("cpu", args={}, policy={}), given)
    own = next(app for app in given["applications"] if app["name"] == "recommender")
    (app,) = served["applications"]
    assert {key: value for key, value in app.items() if key != "args"} == {k: v for k, v in own.items() if k != "args"}
    args = app["args"]
    assert args.pop("http") == {"demo": False}
    assert args.pop("artifact") == "/artifacts/movielens"
    assert args["store"].pop("redis_url") == "redis://redis:6379/0"
    for part in (args["ingress"], *(stage for name, stage in args["stages"].items() if name != "profile")):
        assert part.pop("node_labels") == {"rayfunnel.io/group": "cpu"}
    assert own["args"].pop("artifact")
    assert own["args"]["store"].pop("port")
    assert args == own["args"]
    assert served["http_options"] == given["http_options"] | {"host": "0.0.0.0"}
    assert served["logging_config"] == given["logging_config"]


def test_other_pods_reach_it_nobody_sees_the_demo_and_no_store_is_embedded(manifest: Manifest) -> None:
    config = serve_of(manifest)
    assert config["http_options"]["host"] == "0.0.0.0"
    assert [app["import_path"] for app in config["applications"]] == ["graphs.recommendation:build"]
    args = recommender_args(config)
    assert not args.http.demo
    assert args.store.redis_url.startswith("redis://")
    assert args.artifact == containers(manifest)["head"]["volumeMounts"][0]["mountPath"]


def test_the_profile_is_merged_over_the_args_and_the_policy() -> None:
    made = manifest_of(profile("gpu", args__stages__scoring__max_replicas=7), load("serve_config.yaml"))
    (app,) = serve_of(made)["applications"]
    scoring = app["args"]["stages"]["scoring"]
    assert (scoring["num_gpus"], scoring["max_replicas"]) == (0.25, 7)
    assert scoring["config"]["precision"] == "auto"
    assert app["autoscaling_policy"]["policy_kwargs"]["pending_expiry_s"] == 600
    assert app["autoscaling_policy"]["policy_kwargs"]["slo_ms"] == 500


def test_a_replica_has_the_labels_of_the_workers_it_needs() -> None:
    made = manifest_of(profile("gpu"), load("serve_config.yaml"))
    args = recommender_args(serve_of(made))
    groups = {group["groupName"]: group["labels"] for group in cluster_of(made)["workerGroupSpecs"]}
    assert args.stages.scoring.node_labels == groups["gpu"]
    for part in (args.ingress, args.stages.candidates, args.stages.ranking):
        assert part.node_labels == groups["cpu"]


def test_rays_autoscaler_sees_a_head_without_cpus_and_workers_with_gpus() -> None:
    nodes = _generate_available_node_types_from_ray_cr_spec(cluster_of(made(profile("gpu"))))
    assert nodes["headgroup"]["resources"]["CPU"] == 0
    assert nodes["cpu"]["resources"] == {"CPU": 4, "memory": 8 * 2**30}
    assert nodes["gpu"]["resources"] == {"CPU": 4, "GPU": 1, "memory": 16 * 2**30}
    bounds = {name: (node["min_workers"], node["max_workers"]) for name, node in nodes.items()}
    assert bounds == {"headgroup": (0, 0), "cpu": (2, 8), "gpu": (1, 4)}
    assert nodes["gpu"]["labels"] == {"rayfunnel.io/group": "gpu"}


def test_every_ray_container_has_the_flags_of_serve_env(manifest: Manifest) -> None:
    for container in containers(manifest).values():
        env = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert env.items() >= {key: value for key, value in flags().items() if key != "RAY_AUTH_MODE"}.items()
        assert "RAY_AUTH_MODE" not in env, "KubeRay sets it, with the token"
    assert cluster_of(manifest)["authOptions"] == {"mode": "token"}


def test_without_token_authentication_the_flag_says_so() -> None:
    made = manifest_of(profile("cpu", auth="disabled"), load("serve_config.yaml"))
    assert cluster_of(made)["authOptions"] == {"mode": "disabled"}
    assert {"name": "RAY_AUTH_MODE", "value": "disabled"} in containers(made)["cpu"]["env"]


def test_passwords_and_authorities_come_from_secrets() -> None:
    tls = {
        "redis_url": "rediss://funnel@cache.example:6380/2",
        "password": {"name": "cache", "key": "password"},
        "ca": {"name": "cache-ca", "key": "ca.crt"},
    }
    made = manifest_of(profile("cpu", histories=tls, gcs=tls), load("serve_config.yaml"))
    assert cluster_of(made)["gcsFaultToleranceOptions"] == {
        "redisAddress": "rediss://cache.example:6380",
        "redisUsername": {"value": "funnel"},
        "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "cache", "key": "password"}}},
    }
    for _, pod in pods(made):
        (container,) = pod["spec"]["containers"]
        env = {variable["name"]: variable for variable in container["env"]}
        assert env["RAYFUNNEL_REDIS_PASSWORD"]["valueFrom"] == {
            "secretKeyRef": {"name": "cache", "key": "password"},
        }
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        assert mounts.keys() == volumes.keys()
        for variable in ("RAYFUNNEL_REDIS_CA", "RAY_REDIS_CA_CERT"):
            folder, _, file = env[variable]["value"].rpartition("/")
            name = next(name for name, path in mounts.items() if path == folder)
            assert volumes[name]["secret"] == {"secretName": "cache-ca", "items": [{"key": file, "path": file}]}


def test_prometheus_finds_rays_metrics_in_every_pod_and_ours_at_the_service(manifest: Manifest) -> None:
    for name, pod in pods(manifest):
        annotations = pod["metadata"]["annotations"]
        assert annotations["prometheus.io/scrape"] == "true"
        ports = {port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
        assert int(annotations["prometheus.io/port"]) in ports, name
    service = manifest["spec"]["serveService"]["metadata"]["annotations"]
    assert (service["prometheus.io/port"], service["prometheus.io/path"]) == ("8000", "/metrics")


def test_requests_reach_workers_whose_proxy_answers_and_the_head_takes_none(manifest: Manifest) -> None:
    assert manifest["spec"]["excludeHeadPodFromServeSvc"] is True
    for name, container in containers(manifest).items():
        asked = (container["readinessProbe"]["httpGet"]["path"], container["livenessProbe"]["httpGet"]["path"])
        assert asked == ("/api/gcs_healthz" if name == "head" else "/-/healthz", "/api/local_raylet_healthz")


def test_pods_are_guaranteed_unprivileged_and_end_after_the_load_balancers_left(manifest: Manifest) -> None:
    for name, pod in pods(manifest):
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        if name != "head":
            stop = container["lifecycle"]["preStop"]["exec"]["command"][-1]
            assert stop == "sleep 15; ray stop --grace-period 20"
            assert pod["spec"]["terminationGracePeriodSeconds"] > 15 + 20


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        (
            "gpu",
            {"workers__gpu": None},
            "args.stages.scoring.num_gpus is 0.25, but the profile has no workers with GPUs",
        ),
        ("cpu", {"args__ingress__num_gpus": 1}, "args.ingress.num_gpus is 1, but the profile has no workers with GPUs"),
        ("gpu", {"args__stages__scoring__num_gpus": 2}, "num_gpus is 2, but a worker of the group gpu has 1"),
        ("cpu", {"args__ingress__num_cpus": 6}, "args.ingress.num_cpus is 6, but a worker of the group cpu has 4"),
        ("cpu", {"workers__cpu__max": 1, "workers__cpu__min": 1}, "1 workers of the group cpu have no room"),
        (
            "gpu",
            {"args__stages__scoring__num_gpus": 0.6, "args__stages__scoring__replicas": 5},
            "args.stages.scoring.replicas is 5, for which 4 workers of the group gpu have no room",
        ),
        ("cpu", {"args__stages__scoring__nmu_cpus": 1}, "args.stages.scoring.nmu_cpus is not a known key"),
        ("cpu", {"workers__cpu__min": 9}, "profile.workers.cpu = "),
        ("cpu", {"workers__cpu__gpus": 1}, "make it a group gpu, or 0"),
        ("cpu", {"histories__redis_url": "redis://:secret@redis"}, "a password goes into a Secret"),
        ("cpu", {"artifact__path": "models/x"}, "write an absolute one"),
        ("cpu", {"heads": 1}, "profile.heads is not a known key"),
    ],
)
def test_a_config_that_can_not_work_is_refused_in_a_sentence(name: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        manifest_of(profile(name, **changes), load("serve_config.yaml"))
    assert sentence in str(wrong.value)
    assert "\n" not in str(wrong.value)
    assert "secret" not in str(wrong.value)


def test_a_cluster_too_small_for_a_redeploy_or_the_upper_bounds_is_noted() -> None:
    small = profile("cpu", workers__cpu__max=2)
    redeploy, bounds = notes(small, manifest_of(small, load("serve_config.yaml")))
    assert "a redeploy starts new replicas before it stops the old ones" in redeploy
    assert "max_replicas will not be reached" in bounds
    for name in NAMES:
        assert not notes(profile(name), manifest_of(profile(name), load("serve_config.yaml")))


@pytest.mark.parametrize(
    ("replicas", "worker", "workers", "fits"),
    [
        ([(1, 0.25, 4)], Worker(4, 1), 1, True),
        ([(1, 0.25, 5)], Worker(8, 1), 1, False),
        ([(1, 0.6, 2)], Worker(8, 1), 1, False),
        ([(1, 0.6, 2)], Worker(8, 2), 1, True),
        ([(1, 0.6, 1), (1, 0.4, 1)], Worker(8, 1), 1, True),
        ([(1, 2, 1), (1, 0.5, 1)], Worker(8, 2), 1, False),
        ([(0.1, 0, 40)], Worker(4), 1, True),
        ([(3, 0, 2)], Worker(4), 1, False),
        ([(3, 0, 2), (1, 0, 2)], Worker(4), 2, True),
    ],
)
def test_replicas_share_a_gpu_only_if_their_fractions_fit_on_it(
    replicas: list[tuple[float, float, int]], worker: Worker, workers: int, fits: bool
) -> None:
    wanted = [Replicas(f"r{n}", "", cpus, gpus, count, count) for n, (cpus, gpus, count) in enumerate(replicas)]
    assert (without_room(wanted, worker, workers) is None) == fits


def test_the_command_writes_the_file_with_its_origin(tmp_path: Path) -> None:
    out = tmp_path / "rayservice.yaml"
    write("gpu", "serve_config.yaml", str(out))
    text = out.read_text()
    assert text.startswith("# Made by `python -m graphs kuberay --profile gpu` from serve_config.yaml")
    assert "&id" not in text
    assert "  serveConfigV2: |\n    http_options:\n" in text
    assert yaml.safe_load(text) == made(load_profile("gpu"))


def test_a_missing_profile_is_named() -> None:
    with pytest.raises(ConfigError, match=r"tpu: No such file"):
        load_profile("tpu")
