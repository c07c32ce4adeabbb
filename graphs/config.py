"""The typed `args:` of the application `recommender` in serve_config.yaml; each part's Config lives with its owner."""

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
from deployments.telemetry.hub_keeper import MetricsConfig
from deployments.validation_errors import FieldError, field_errors
from monitoring.drift.monitor import DriftConfig

STAGES: dict[str, tuple[str, type[Any]]] = {
    "profile": ("Profiles", Profiles),
    "candidates": ("CandidateGenerator", CandidateGenerator),
    "scoring": ("Scorer", Scorer),
    "ranking": ("Ranker", Ranker),
}
"""Per stage the name under which the Ray dashboard shows it, and its class."""


def _fraction(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError("must be a fraction in (0, 1], a whole number, or 0")
    return gpus


Gpus = Annotated[float, Field(ge=0), AfterValidator(_fraction)]


class Strict(BaseModel):
    """No unknown key."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class IngressArgs(Strict):
    """The Ingress deployment: shares of a replica, and Ray's labels of the nodes that may hold one."""

    replicas: int = Field(1, ge=1)
    num_cpus: float = Field(0.5, gt=0)
    num_gpus: Gpus = 0
    node_labels: dict[str, str] = {}


class StageArgs(Strict):
    """Where a stage runs; its own numbers are under `config`.

    `placement`: `replica` = a deployment of its own, `ingress` = in the ingress process. The others describe a replica.
    `num_cpus`, `num_gpus`: its shares; `node_labels`: Ray's labels of the nodes that may hold it. `slots`: batches an
    ingress replica keeps under way at this stage; `concurrency`: computed at a time in one replica (more only contend
    for its interpreter lock, unless a GPU computes); those that wait meanwhile are joined, up to `max_rows` requests.
    `min_replicas`, `max_replicas`: bounds of the autoscaling policy, which starts from `replicas`; max_replicas 0: no
    autoscaling.
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
    """Profiles."""

    placement: Literal["replica", "ingress"] = "ingress"
    config: ProfileConfig = ProfileConfig()


class CandidateArgs(StageArgs):
    """CandidateGenerator. `shards`: so many deployments hold a part of the catalogue each, `replicas` of every one."""

    shards: int = Field(1, ge=1, le=64)
    config: CandidateConfig = CandidateConfig()

    @model_validator(mode="after")
    def _shards_are_replicas(self) -> CandidateArgs:
        if self.shards > 1 and self.placement == "ingress":
            raise ValueError(f"shards is {self.shards}: set placement to replica, or shards to 1")
        return self


class ScorerArgs(StageArgs):
    """Scorer."""

    config: ScorerConfig = ScorerConfig()


class RankerArgs(StageArgs):
    """Ranker."""

    config: RankerConfig = RankerConfig()


class Stages(Strict):
    """One entry per stage of the funnel."""

    profile: ProfileArgs = ProfileArgs()
    candidates: CandidateArgs = CandidateArgs()
    scoring: ScorerArgs = ScorerArgs()
    ranking: RankerArgs = RankerArgs()


class RecommenderArgs(FunnelConfig):
    """Everything under `args:`. `artifact`: a folder or an fsspec URI; `seed_histories`: put the histories that the
    artifact carries into the store."""

    artifact: str
    seed_histories: bool = True
    http: HttpConfig = HttpConfig()
    drift: DriftConfig = DriftConfig()
    metrics: MetricsConfig = MetricsConfig()
    ingress: IngressArgs = IngressArgs()
    stages: Stages = Stages()


ArgsT = TypeVar("ArgsT", bound=BaseModel)


def parse_args(model: type[ArgsT], args: Mapping[str, Any], where: str = "args.") -> ArgsT:
    """`args` as `model`. `where`: what comes before a field's name in an error.

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
