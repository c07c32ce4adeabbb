"""A RayService of KubeRay (ray.io/v1) from a profile and a Serve config.

The head runs no replicas; workers come in groups, with or without GPUs. Needs KubeRay 1.5.1 or later, for labels of
groups and `authOptions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import yaml

from cluster.kubernetes.cluster_profile import Pod, Profile, RedisAt, SecretKey, WorkerGroup

GROUP_LABEL = "rayfunnel.io/group"
"""Ray's label of a worker's group; the stages' `node_labels` ask for it."""
METRICS_PORT, AGENT_PORT, DASHBOARD_PORT, GCS_PORT = 8080, 52365, 8265, 6379
USER = 1000
"""The user of the Dockerfile."""
STOP_S = 20
"""Grace period of `ray stop` in a pod, seconds."""

Manifest = dict[str, Any]


def render(profile: Profile, serve: Mapping[str, Any], flags: Mapping[str, str], ray_version: str) -> Manifest:
    """The manifest. `serve`: the Serve config, used unchanged; `flags`: environment of every Ray process."""
    port = int(serve.get("http_options", {}).get("port", 8000))
    environment = _environment(profile, flags)
    groups = {"cpu": profile.workers.cpu} | ({"gpu": profile.workers.gpu} if profile.workers.gpu else {})
    metadata: Manifest = {"name": profile.name, "labels": {"app.kubernetes.io/name": profile.name}}
    if profile.namespace:
        metadata["namespace"] = profile.namespace
    cluster: Manifest = {
        "rayVersion": ray_version,
        "authOptions": {"mode": profile.auth},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": profile.idle_s,
            "env": [{"name": name, "value": value} for name, value in _flags(profile, flags).items()],
            "resources": _same({"cpu": "500m", "memory": "1Gi"}),
            "securityContext": _container_security(),
        },
        "gcsFaultToleranceOptions": _gcs(profile.gcs),
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"} | _ports(),  # noqa: S104 - in the pod
            "template": _head(profile, port, environment),
        },
        "workerGroupSpecs": [
            {
                "groupName": name,
                "replicas": group.min,
                "minReplicas": group.min,
                "maxReplicas": group.max,
                "labels": {GROUP_LABEL: name},
                "rayStartParams": {"num-cpus": str(group.cpus)}
                | ({"num-gpus": str(group.gpus)} if group.gpus else {})
                | _ports(),
                "template": _worker(profile, name, group, port, environment),
            }
            for name, group in groups.items()
        ],
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": metadata,
        "spec": {
            "upgradeStrategy": {"type": "NewCluster"},
            "excludeHeadPodFromServeSvc": True,
            # The recommender's own metrics are served at the serve port: any pod answers for all replicas.
            "serveService": {"metadata": {"annotations": _scraped(port)}},
            "serveConfigV2": yaml.safe_dump(dict(serve), sort_keys=False, width=110),
            "rayClusterConfig": cluster,
        },
    }


def _head(profile: Profile, port: int, environment: list[Manifest]) -> Manifest:
    # An unready head would leave the service through which workers find it, so Serve's health is not checked here.
    ready = _probe("/api/gcs_healthz", DASHBOARD_PORT, period_s=5, failures=10)
    ports = {"gcs": GCS_PORT, "dashboard": DASHBOARD_PORT, "metrics": METRICS_PORT, "serve": port}
    container = _container(profile, "ray-head", profile.head, {}, ports, environment, ready)
    return _pod(profile, profile.head, container, {})


def _worker(profile: Profile, name: str, group: WorkerGroup, port: int, environment: list[Manifest]) -> Manifest:
    # Requests go to ready pods: those whose proxy answers and has a replica of the Ingress.
    ready = _probe("/-/healthz", port, period_s=5, failures=2)
    gpus = {"nvidia.com/gpu": group.gpus} if group.gpus else {}
    ports = {"metrics": METRICS_PORT, "serve": port}
    container = _container(profile, "ray-worker", group, gpus, ports, environment, ready)
    stop = f"sleep {profile.drain_s}; ray stop --grace-period {STOP_S}"
    container["lifecycle"] = {"preStop": {"exec": {"command": ["/bin/sh", "-c", stop]}}}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"ray.io/group": name}},
    }
    return _pod(
        profile,
        group,
        container,
        {
            "automountServiceAccountToken": False,
            "topologySpreadConstraints": [spread],
        },
    )


def _pod(profile: Profile, pod: Pod, container: Manifest, more: Manifest) -> Manifest:
    spec: Manifest = {
        "restartPolicy": "Never",  # KubeRay creates a new pod instead, which the autoscaler counts
        "terminationGracePeriodSeconds": profile.drain_s + STOP_S + 10,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",  # spares a change of every file of the artifact at each start
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    } | more
    if profile.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in profile.image_pull_secrets]
    if pod.node_selector:
        spec["nodeSelector"] = dict(pod.node_selector)
    if pod.tolerations:
        spec["tolerations"] = [{k: v for k, v in t.model_dump().items() if v} for t in pod.tolerations]
    spec["containers"] = [container]
    if volumes := _volumes(profile):
        spec["volumes"] = volumes
    return {"metadata": {"annotations": _scraped(METRICS_PORT)}, "spec": spec}


def _container(
    profile: Profile,
    name: str,
    pod: Pod,
    devices: Manifest,
    ports: Mapping[str, int],
    environment: list[Manifest],
    ready: Manifest,
) -> Manifest:
    container: Manifest = {
        "name": name,
        "image": profile.image,
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "env": [dict(variable) for variable in environment],
        "resources": _same({"cpu": pod.cpus, "memory": pod.memory} | devices),
        "securityContext": _container_security(),
        "readinessProbe": ready,
        "livenessProbe": _probe("/api/local_raylet_healthz", AGENT_PORT, period_s=10, failures=12),
    }
    if mounts := _mounts(profile):
        container["volumeMounts"] = mounts
    return container


def _environment(profile: Profile, flags: Mapping[str, str]) -> list[Manifest]:
    """The flags, and references to the secrets."""
    environment: list[Manifest] = [{"name": name, "value": value} for name, value in _flags(profile, flags).items()]
    if profile.histories.password:
        secret = profile.histories.password.model_dump()
        environment.append({"name": "RAYFUNNEL_REDIS_PASSWORD", "valueFrom": {"secretKeyRef": secret}})
    for variable, (folder, secret_key) in _authorities(profile).items():
        environment.append({"name": variable, "value": f"{folder}/{secret_key.key}"})
    return environment


def _flags(profile: Profile, flags: Mapping[str, str]) -> dict[str, str]:
    """Without RAY_AUTH_MODE unless it is disabled: KubeRay sets the mode and the token itself."""
    return {name: value for name, value in flags.items() if name != "RAY_AUTH_MODE" or profile.auth == "disabled"}


def _authorities(profile: Profile) -> dict[str, tuple[str, SecretKey]]:
    """Per environment variable the folder and the Secret of a certificate authority."""
    wanted = {"RAYFUNNEL_REDIS_CA": profile.histories.ca, "RAY_REDIS_CA_CERT": profile.gcs.ca}
    return {
        variable: (f"/etc/rayfunnel/{variable.lower().replace('_', '-')}", secret)
        for variable, secret in wanted.items()
        if secret
    }


def _volumes(profile: Profile) -> list[Manifest]:
    volumes: list[Manifest] = []
    if profile.artifact.claim:
        claim = {"claimName": profile.artifact.claim, "readOnly": True}
        volumes.append({"name": "artifact", "persistentVolumeClaim": claim})
    for folder, secret in _authorities(profile).values():
        key = {"key": secret.key, "path": secret.key}
        volumes.append({"name": folder.rpartition("/")[2], "secret": {"secretName": secret.name, "items": [key]}})
    return volumes


def _mounts(profile: Profile) -> list[Manifest]:
    mounts: list[Manifest] = []
    if profile.artifact.claim:
        mounts.append({"name": "artifact", "mountPath": profile.artifact.path, "readOnly": True})
    for folder, _ in _authorities(profile).values():
        mounts.append({"name": folder.rpartition("/")[2], "mountPath": folder, "readOnly": True})
    return mounts


def _gcs(redis: RedisAt) -> Manifest:
    """Ray takes `host:port`, with a scheme for TLS alone; the password is a reference to its Secret."""
    parts = urlsplit(redis.redis_url)
    scheme = "rediss://" if parts.scheme == "rediss" else ""
    options: Manifest = {"redisAddress": f"{scheme}{parts.hostname}:{parts.port or 6379}"}
    if parts.username:
        options["redisUsername"] = {"value": parts.username}
    if redis.password:
        options["redisPassword"] = {"valueFrom": {"secretKeyRef": redis.password.model_dump()}}
    return options


def _ports() -> dict[str, str]:
    return {"metrics-export-port": str(METRICS_PORT), "dashboard-agent-listen-port": str(AGENT_PORT)}


def _probe(path: str, port: int, period_s: int, failures: int) -> Manifest:
    """A probe of a path that needs no token."""
    return {
        "httpGet": {"path": path, "port": port},
        "initialDelaySeconds": 10,
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _same(resources: Manifest) -> Manifest:
    """Requests equal to limits: quality of service class Guaranteed."""
    return {"requests": dict(resources), "limits": dict(resources)}


def _container_security() -> Manifest:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _scraped(port: int) -> dict[str, str]:
    return {"prometheus.io/scrape": "true", "prometheus.io/port": str(port), "prometheus.io/path": "/metrics"}
