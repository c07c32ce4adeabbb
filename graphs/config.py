"""The typed `args:` of the application `recommender` in serve_config.yaml. Each part has its Config beside its code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from deployments.api.http import HttpConfig
from deployments.assembly import FunnelConfig
from deployments.errors import ConfigError
from deployments.stages.candidates import CandidateConfig, CandidateGenerator
from deployments.stages.profile import ProfileConfig, Profiles
from deployments.stages.ranking import Ranker, RankerConfig
from deployments.stages.scoring import Scorer, ScorerConfig
from deployments.telemetry.durable_aggregator import MetricsConfig
from deployments.validation_errors import FieldError, field_errors
from monitoring.drift.drift_config import DriftConfig

STAGES: dict[str, tuple[str, type[Any]]] = {
    "profile": ("Profiles", Profiles),
    "candidates": ("CandidateGenerator", CandidateGenerator),
    "scoring": ("Scorer", Scorer),
    "ranking": ("Ranker", Ranker),
}
"""Per stage its name in the Ray dashboard, and its class."""


def _fraction(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError("must be a fraction in (0, 1], a whole number, or 0")
    return gpus


Gpus = Annotated[float, Field(ge=0), AfterValidator(_fraction)]


class Strict(BaseModel):
    """Refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class IngressArgs(Strict):
    """The Ingress deployment: CPUs and GPUs of a replica, and the Ray labels of the nodes that may run one."""

    replicas: int = Field(1, ge=1)
    """Number of replicas; the autoscaling policy does not change it."""
    num_cpus: float = Field(0.5, gt=0)
    """CPUs that Ray reserves for a replica."""
    num_gpus: Gpus = 0
    """GPUs that Ray reserves for a replica, for stages placed in the ingress: a fraction, or a whole number."""
    node_labels: dict[str, str] = {}
    """Ray's labels of the nodes that may run a replica."""


class StageArgs(Strict):
    """Where a stage runs; its own numbers are under `config`."""

    placement: Literal["replica", "ingress"] = "replica"
    """`replica`: a deployment of its own, which the other keys describe; `ingress`: the ingress process."""
    replicas: int = Field(1, ge=1)
    """Number of replicas; the autoscaling policy starts from it."""
    min_replicas: int = Field(1, ge=0)
    """Fewest replicas that the autoscaling policy may set."""
    max_replicas: int = Field(0, ge=0)
    """Most replicas that the autoscaling policy may set. 0: no autoscaling, always `replicas`."""
    num_cpus: float = Field(0.3, gt=0)
    """CPUs that Ray reserves for a replica."""
    num_gpus: Gpus = 0
    """GPUs that Ray reserves for a replica: a fraction (0.25: four replicas share one GPU), or a whole number."""
    node_labels: dict[str, str] = {}
    """Ray's labels of the nodes that may run a replica."""
    concurrency: int = Field(1, ge=1)
    """Batches that a replica computes at a time. Several contend for the interpreter lock, unless a GPU computes."""
    max_rows: int = Field(256, ge=1)
    """Batches that wait at a replica are joined, up to this many requests."""
    slots: int = Field(8, ge=1)
    """Batches that one ingress replica has in flight at this stage."""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.max_replicas and not self.min_replicas <= self.replicas <= self.max_replicas:
            raise ValueError(
                f"replicas {self.replicas} must lie within min_replicas {self.min_replicas} and max_replicas "
                f"{self.max_replicas}; max_replicas 0 turns autoscaling off"
            )
        return self


class ProfileArgs(StageArgs):
    """The profile stage."""

    placement: Literal["replica", "ingress"] = "ingress"
    """As of the other stages, but in the ingress process by default: the stage is cheap."""
    config: ProfileConfig = ProfileConfig()
    """The stage's own numbers."""


class CandidateArgs(StageArgs):
    """The candidate stage."""

    shards: int = Field(1, ge=1, le=64)
    """Deployments that serve a part of a large catalogue each, with `replicas` replicas each."""
    config: CandidateConfig = CandidateConfig()
    """The stage's own numbers."""

    @model_validator(mode="after")
    def _shards_are_replicas(self) -> CandidateArgs:
        if self.shards > 1 and self.placement == "ingress":
            raise ValueError(f"shards is {self.shards}: set placement to replica, or shards to 1")
        return self


class ScorerArgs(StageArgs):
    """The scoring stage."""

    config: ScorerConfig = ScorerConfig()
    """How the model runs."""


class RankerArgs(StageArgs):
    """The ranking stage."""

    config: RankerConfig = RankerConfig()
    """Diversity, cap and business rules."""


class Stages(Strict):
    """One entry per stage of the funnel."""

    profile: ProfileArgs = ProfileArgs()
    """The profile stage: `Profiles` in the Ray dashboard."""
    candidates: CandidateArgs = CandidateArgs()
    """The candidate stage: `CandidateGenerator` in the Ray dashboard."""
    scoring: ScorerArgs = ScorerArgs()
    """The scoring stage: `Scorer` in the Ray dashboard."""
    ranking: RankerArgs = RankerArgs()
    """The ranking stage: `Ranker` in the Ray dashboard."""


class RecommenderArgs(FunnelConfig):
    """Everything under `args:`."""

    artifact: str
    """The model: a folder, or any fsspec URI."""
    model_version: str = Field("", pattern=r"^([0-9a-f]{16})?$")
    """The only version of the model that may be served; empty: any. `rayfunnel serve` and `rayfunnel deploy` set it, so
    that Serve sees a model that was trained again into the same place."""
    seed_histories: bool = True
    """Whether the histories of the artifact's training data are written into the store at the start."""
    http: HttpConfig = HttpConfig()
    """What HTTP serves, and whom it lets in."""
    drift: DriftConfig = DriftConfig()
    """Whether and how drift is detected."""
    metrics: MetricsConfig = MetricsConfig()
    """How replicas report to the metrics hub."""
    ingress: IngressArgs = IngressArgs()
    """The deployment that takes requests."""
    stages: Stages = Stages()
    """Where each stage runs, and its numbers."""

    @property
    def most_ongoing(self) -> int:
        """Requests that Serve may give an ingress replica at a time. More than our own limits: they must refuse first,
        since our metrics do not show what Serve refuses."""
        return self.batcher.most_under_way + self.limits.similar + self.limits.events + 64


ArgsT = TypeVar("ArgsT", bound=BaseModel)


def parse_args(model: type[ArgsT], args: Mapping[str, Any], where: str = "args.") -> ArgsT:
    """Parses `args` as `model`. `where`: prefix of the field names in an error.

    Raises:
        ConfigError: one sentence naming every wrong field and value.
    """
    try:
        return model.model_validate(args)
    except ValidationError as error:
        wrong = field_errors(error, "is not a known key; remove it or mend its spelling", "is missing; add it")
        raise ConfigError("; ".join(_sentence(each, where) for each in wrong)) from None


def _sentence(error: FieldError, where: str) -> str:
    name = " ".join(f"{where}{error.field}".rstrip(".").split())
    if error.value is None:
        return f"{name} {error.message}"
    value = "(not shown)" if error.field.endswith("redis_url") else error.value
    return f"{name} = {value}: {error.message}"
