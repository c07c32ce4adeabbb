"""The profile of a Kubernetes cluster: the input of `python -m graphs kuberay` beside serve_config.yaml."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

Label = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length=47)]
"""A Kubernetes name; short, since KubeRay appends to it."""
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$")]
"""Bytes as Kubernetes writes them: 8Gi."""
_URL = re.compile(r"rediss?://([^:@/?#]+@)?[^:@/?#]+(:[0-9]+)?(/[0-9]+)?")


class Strict(BaseModel):
    """No unknown key."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SecretKey(Strict):
    """A key of an existing Secret; its value never enters the manifest."""

    name: str = Field(min_length=1)
    key: str = Field(min_length=1)


class RedisAt(Strict):
    """A Redis. `redis_url`: redis://[user@]host:port/db, rediss:// with TLS; `password`, `ca`: their Secrets."""

    redis_url: str
    password: SecretKey | None = None
    ca: SecretKey | None = None

    @field_validator("redis_url")
    @classmethod
    def _without_password(cls, url: str) -> str:
        if not _URL.fullmatch(url):
            raise ValueError("must be redis:// or rediss://[user@]host[:port][/db]; a password goes into a Secret")
        return url


class Toleration(Strict):
    """A taint of nodes that the pods tolerate."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class Pod(Strict):
    """One pod; requests and limits are the same."""

    cpus: int = Field(ge=1)
    memory: Quantity
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()


class WorkerGroup(Pod):
    """Equal workers, between `min` and `max` of them."""

    gpus: int = Field(0, ge=0)
    min: int = Field(1, ge=0)
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is over max {self.max}")
        return self


class Workers(Strict):
    """Replicas with a share of a GPU run in the group `gpu`, all others in `cpu`."""

    cpu: WorkerGroup
    gpu: WorkerGroup | None = None

    @model_validator(mode="after")
    def _gpus_where_they_belong(self) -> Self:
        if self.cpu.gpus:
            raise ValueError(f"cpu.gpus is {self.cpu.gpus}: make it a group gpu, or 0")
        if self.gpu and not self.gpu.gpus:
            raise ValueError("gpu.gpus is 0: say how many a worker has, or leave the group out")
        return self


class ArtifactAt(Strict):
    """`path`: the artifact's path in the containers, or any fsspec URI; `claim`: the PersistentVolumeClaim with the
    artifact, mounted read-only at `path`; empty: the artifact is in the image, or at the URI."""

    path: str = Field(min_length=1)
    claim: str = ""

    @model_validator(mode="after")
    def _mountable(self) -> Self:
        if self.claim and not self.path.startswith("/"):
            raise ValueError(f"path {self.path!r} can't be mounted: write an absolute one, or leave claim out")
        return self


class Profile(Strict):
    """`auth`: Ray's authentication mode; `histories`, `gcs`: the Redis of the store and of Ray's head, which may be the
    same; `idle_s`: how long a worker without replicas is kept; `drain_s`: how long a terminating pod still serves,
    until no load balancer sends requests to it; `policy`, `args`: merged over the autoscaling policy's kwargs and the
    recommender's args of serve_config.yaml.
    """

    name: Label = "rayfunnel"
    namespace: str = ""
    image: str = Field(min_length=1)
    image_pull_secrets: tuple[str, ...] = ()
    auth: Literal["token", "disabled"] = "token"
    artifact: ArtifactAt
    histories: RedisAt
    gcs: RedisAt
    head: Pod
    workers: Workers
    idle_s: int = Field(300, ge=1)
    drain_s: int = Field(15, ge=0, le=600)
    policy: dict[str, float] = {}
    args: dict[str, Any] = {}
