"""`python -m graphs kuberay`: serve_config.yaml and a profile → a RayService for Kubernetes.

profile → merged over the config → keys checked → room for every replica checked → manifest
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from cluster import PROFILES
from cluster.kubernetes.bin_packing import Replicas, Worker, at_most, doubled, without_room
from cluster.kubernetes.cluster_profile import Profile, WorkerGroup
from cluster.kubernetes.ray_service import GROUP_LABEL, Manifest, render
from deployments.errors import ConfigError
from graphs.commands.serve import flags
from graphs.config import STAGES, RecommenderArgs, parse_args
from graphs.config_file import RECOMMENDER, STORE, checked, load, read, recommender_args
from monitoring.deep_merge import deep_merge

Config = dict[str, Any]


def write(profile: str, config: str, out: str) -> None:
    """Writes the manifest to the file `out`, or to standard output (`-`); notes go to stderr.

    Raises:
        ConfigError: a key or value is wrong, or the workers have no room for a replica.
    """
    chosen = load_profile(profile)
    manifest = manifest_of(chosen, load(config))
    for note in notes(chosen, manifest):
        print(f"note: {note}", file=sys.stderr)
    text = (
        f"# Made by `python -m graphs kuberay --profile {profile}` from {config}: change those, and make it again.\n"
        + yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=120)
    )
    if out == "-":
        print(text, end="")
    else:
        Path(out).write_text(text, "utf-8")


def load_profile(name: str) -> Profile:
    """The profile of this name in cluster/kubernetes/profiles, or in the file `name`.

    Raises:
        ConfigError: there is no such file, or a key or value in it is wrong.
    """
    own = PROFILES / f"{name}.yaml"
    path = own if own.is_file() else Path(name)
    content = read(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no keys; write it like cluster/kubernetes/profiles/cpu.yaml")
    return parse_args(Profile, content, "profile.")


def manifest_of(profile: Profile, config: Mapping[str, Any]) -> Manifest:
    """The RayService that serves `config` on the cluster of `profile`.

    Raises:
        ConfigError: `config` can't run on that cluster.
    """
    serve = serve_config(profile, config)
    _check_room(profile, serve)
    return render(profile, serve, flags(), version("ray"))


def serve_config(profile: Profile, config: Mapping[str, Any]) -> Config:
    """`config` for the cluster: reachable from other pods, with the profile's Redis instead of the application `store`,
    every deployment in its group of workers.

    Raises:
        ConfigError: it has no recommender, or a key or value of the profile's args is wrong.
    """
    served: Config = copy.deepcopy(dict(config))
    served["http_options"] = served.get("http_options", {}) | {"host": "0.0.0.0"}  # noqa: S104 - in the pod
    served["applications"] = [app for app in served["applications"] if app.get("import_path") != STORE]
    recommender_args(served)
    for app in served["applications"]:
        if app.get("import_path") == RECOMMENDER:
            app["args"] = _args(profile, app.get("args", {}))
            if profile.policy and "autoscaling_policy" in app:
                policy = app["autoscaling_policy"]
                policy["policy_kwargs"] = policy.get("policy_kwargs", {}) | profile.policy
    return checked(served, f"the config with the args of profile {profile.name}")


def _args(profile: Profile, args: Config) -> Config:
    args = deep_merge(args, profile.args)
    args["artifact"] = profile.artifact.path
    store = {key: value for key, value in args.get("store", {}).items() if key not in ("host", "port")}
    args["store"] = store | {"redis_url": profile.histories.redis_url}
    args["http"] = args.get("http", {}) | {"demo": False}
    parsed = parse_args(RecommenderArgs, args)
    for where, part in _parts(parsed):
        node = args
        for key in where.split(".")[1:]:
            node = node.setdefault(key, {})
        node["node_labels"] = {GROUP_LABEL: _group(part.num_gpus)} | dict(part.node_labels)
    return args


def _parts(args: RecommenderArgs) -> Iterator[tuple[str, Any]]:
    """Per deployment its key in the config, and its args."""
    yield "args.ingress", args.ingress
    for name in STAGES:
        stage = getattr(args.stages, name)
        if stage.placement == "replica":
            yield f"args.stages.{name}", stage


def _group(num_gpus: float) -> str:
    return "gpu" if num_gpus else "cpu"


def replicas(args: RecommenderArgs) -> list[Replicas]:
    """Per deployment its replicas at the start and at most."""
    found = []
    for where, part in _parts(args):
        times = getattr(part, "shards", 1)
        count, most = part.replicas * times, max(part.replicas, getattr(part, "max_replicas", 0)) * times
        title = STAGES[where.rpartition(".")[2]][0] if where != "args.ingress" else "Ingress"
        found.append(Replicas(title, where, part.num_cpus, part.num_gpus, count, most))
    return found


def _by_group(profile: Profile, serve: Mapping[str, Any]) -> Iterator[tuple[str, WorkerGroup | None, list[Replicas]]]:
    every = [
        one
        for app in serve["applications"]
        if app.get("import_path") == RECOMMENDER
        for one in replicas(parse_args(RecommenderArgs, app["args"]))
    ]
    for name in ("cpu", "gpu"):
        yield name, getattr(profile.workers, name), [one for one in every if _group(one.num_gpus) == name]


def _check_room(profile: Profile, serve: Mapping[str, Any]) -> None:
    for name, group, wanted in _by_group(profile, serve):
        if not wanted:
            continue
        if group is None:
            one = wanted[0]
            raise ConfigError(
                f"{one.where}.num_gpus is {one.num_gpus:g}, but the profile has no workers with GPUs; add workers.gpu, "
                "or set it to 0"
            )
        worker = Worker(group.cpus, group.gpus)
        for one in wanted:
            for resource, share, offered in (("cpus", one.num_cpus, worker.cpus), ("gpus", one.num_gpus, worker.gpus)):
                if share > offered:
                    raise ConfigError(
                        f"{one.where}.num_{resource} is {share:g}, but a worker of the group {name} has {offered}; "
                        f"raise workers.{name}.{resource}, or lower it"
                    )
        left = without_room(wanted, worker, group.max)
        if left:
            raise ConfigError(
                f"{left.where}.replicas is {left.count}, for which {group.max} workers of the group {name} have no "
                f"room beside the rest; raise workers.{name}.max, or lower it"
            )


def notes(profile: Profile, manifest: Manifest) -> list[str]:
    """Limits of a manifest that works: sentences for the user."""
    found = []
    for name, group, wanted in _by_group(profile, yaml.safe_load(manifest["spec"]["serveConfigV2"])):
        if group is None or not wanted:
            continue
        worker = Worker(group.cpus, group.gpus)
        if left := without_room(doubled(wanted), worker, group.max):
            found.append(
                f"a redeploy starts new replicas before it stops the old ones, and {group.max} workers of the group "
                f"{name} have no room for {left.name} twice; it then waits until you raise workers.{name}.max"
            )
        if left := without_room(at_most(wanted), worker, group.max):
            found.append(
                f"{left.where}.max_replicas will not be reached together with the others' on {group.max} workers of "
                f"the group {name}; the policy then does with what it has"
            )
    return found


class _Dumper(yaml.SafeDumper):
    """No anchors; a text of several lines as a literal block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
