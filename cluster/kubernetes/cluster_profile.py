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

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class SecretKey(Strict):
    """A key of an existing Secret; its value never enters the manifest."""

    name: str = Field(min_length=1)
    """Name of the Secret."""
    key: str = Field(min_length=1)
    """Key in the Secret."""


class RedisAt(Strict):
    """A Redis."""

    redis_url: str
    """`redis://[user@]host:port/db`; `rediss://` with TLS."""
    password: SecretKey | None = None
    """Where the password is."""
    ca: SecretKey | None = None
    """Where the certificate of the authority is, for `rediss://`."""

    @field_validator("redis_url")
    @classmethod
    def _without_password(cls, url: str) -> str:
        if not _URL.fullmatch(url):
            raise ValueError("must be redis:// or rediss://[user@]host[:port][/db]; a password goes into a Secret")
        return url


class Toleration(Strict):
    """A taint of nodes that the pods tolerate."""

    key: str
    """Key of the taint."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """`Equal`: the taint must have `value`, too."""
    value: str = ""
    """Value of the taint."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Effect of the taint; empty: any."""


class Pod(Strict):
    """One pod; requests and limits are the same."""

    cpus: int = Field(ge=1)
    """CPUs."""
    memory: Quantity
    """Memory, as Kubernetes writes it: `8Gi`."""
    node_selector: dict[str, str] = {}
    """Labels that the pod's node must have."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints of nodes that the pod tolerates."""


class WorkerGroup(Pod):
    """Equal workers, between `min` and `max` of them."""

    gpus: int = Field(0, ge=0)
    """GPUs of a worker."""
    min: int = Field(1, ge=0)
    """Fewest workers."""
    max: int = Field(ge=1)
    """Most workers."""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is over max {self.max}")
        return self


class Workers(Strict):
    """Replicas with a share of a GPU run in the group `gpu`, all others in `cpu`."""

    cpu: WorkerGroup
    """Workers without GPUs."""
    gpu: WorkerGroup | None = None
    """Workers with GPUs; left out: there are none."""

    @model_validator(mode="after")
    def _gpus_where_they_belong(self) -> Self:
        if self.cpu.gpus:
            raise ValueError(f"cpu.gpus is {self.cpu.gpus}: make it a group gpu, or 0")
        if self.gpu and not self.gpu.gpus:
            raise ValueError("gpu.gpus is 0: say how many a worker has, or leave the group out")
        return self


class ArtifactAt(Strict):
    """Where the artifact is."""

    path: str = Field(min_length=1)
    """Its path in the containers, or any fsspec URI."""
    claim: str = ""
    """The PersistentVolumeClaim with the artifact, mounted read-only at `path`. Empty: the artifact is in the image, or
    at the URI."""

    @model_validator(mode="after")
    def _mountable(self) -> Self:
        if self.claim and not self.path.startswith("/"):
            raise ValueError(f"path {self.path!r} can't be mounted: write an absolute one, or leave claim out")
        return self


class Profile(Strict):
    """A whole profile."""

    name: Label = "rayfunnel"
    """Name of the RayService."""
    namespace: str = ""
    """Its namespace; empty: that of kubectl."""
    image: str = Field(min_length=1)
    """Image of every container; the Dockerfile says how it is built."""
    image_pull_secrets: tuple[str, ...] = ()
    """Secrets for the image's registry."""
    auth: Literal["token", "disabled"] = "token"
    """Ray's authentication mode."""
    artifact: ArtifactAt
    """Where the model is."""
    histories: RedisAt
    """The Redis of the store: users' events, and the cache."""
    gcs: RedisAt
    """The Redis of Ray's head, so that a new head can take over. It may be the same as `histories`."""
    head: Pod
    """The pod of Ray's head, which runs no replicas."""
    workers: Workers
    """The groups of workers."""
    idle_s: int = Field(300, ge=1)
    """How long a worker without replicas is kept."""
    drain_s: int = Field(15, ge=0, le=600)
    """How long a terminating pod still serves, until no load balancer sends requests to it."""
    policy: dict[str, float] = {}
    """Merged over the `policy_kwargs` of serve_config.yaml."""
    args: dict[str, Any] = {}
    """Merged over the recommender's `args:` of serve_config.yaml."""
