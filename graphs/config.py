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

    model_config = ConfigDict(extra="forbid", frozen=True)


class IngressArgs(Strict):
    """The Ingress deployment: CPUs and GPUs of a replica, and the Ray labels of the nodes that may run one."""

    replicas: int = Field(1, ge=1)
    num_cpus: float = Field(0.5, gt=0)
    num_gpus: Gpus = 0
    node_labels: dict[str, str] = {}


class StageArgs(Strict):
    """Where a stage runs; its own numbers are under `config`.

    `placement`: `replica` is a deployment of its own, `ingress` the ingress process. The other keys describe a replica.
    `num_cpus`, `num_gpus`: its shares; `node_labels`: Ray labels of the nodes that may run it.
    `slots`: batches that one ingress replica has in flight at this stage.
    `concurrency`: batches that one replica computes at a time; more than 1 contend for the interpreter lock, unless a
    GPU computes. Batches that wait are joined, up to `max_rows` requests.
    `min_replicas`, `max_replicas`: bounds of the autoscaling policy, which starts from `replicas`; max_replicas 0 turns
    autoscaling off.
    """

    placement: Literal["replica", "ingress"] = "replica"
    replicas: int = Field(1, ge=1)
    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(0, ge=0)
    num_cpus: float = Field(0.3, gt=0)
    num_gpus: Gpus = 0
    node_labels: dict[str, str] = {}
    concurrency: int = Field(1, ge=1)
    max_rows: int = Field(256, ge=1)
    slots: int = Field(8, ge=1)

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
    config: ProfileConfig = ProfileConfig()


class CandidateArgs(StageArgs):
    """The candidate stage. `shards`: deployments with a part of the catalogue each, and `replicas` replicas each."""

    shards: int = Field(1, ge=1, le=64)
    config: CandidateConfig = CandidateConfig()

    @model_validator(mode="after")
    def _shards_are_replicas(self) -> CandidateArgs:
        if self.shards > 1 and self.placement == "ingress":
            raise ValueError(f"shards is {self.shards}: set placement to replica, or shards to 1")
        return self


class ScorerArgs(StageArgs):
    """The scoring stage."""

    config: ScorerConfig = ScorerConfig()


class RankerArgs(StageArgs):
    """The ranking stage."""

    config: RankerConfig = RankerConfig()


class Stages(Strict):
    """One entry per stage of the funnel."""

    profile: ProfileArgs = ProfileArgs()
    candidates: CandidateArgs = CandidateArgs()
    scoring: ScorerArgs = ScorerArgs()
    ranking: RankerArgs = RankerArgs()


class RecommenderArgs(FunnelConfig):
    """Everything under `args:`. `artifact`: a folder or an fsspec URI; `seed_histories`: write the histories of the
    artifact into the store at the start."""

    artifact: str
    seed_histories: bool = True
    http: HttpConfig = HttpConfig()
    drift: DriftConfig = DriftConfig()
    metrics: MetricsConfig = MetricsConfig()
    ingress: IngressArgs = IngressArgs()
    stages: Stages = Stages()

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
    name = f"{where}{error.field}".rstrip(".")
    if error.value is None:
        return f"{name} {error.message}"
    value = "(not shown)" if error.field.endswith("redis_url") else error.value
    return f"{name} = {value}: {error.message}"
