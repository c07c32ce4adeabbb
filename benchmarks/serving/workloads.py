"""The workloads: data, model and users. All but MovieLens are synthetic, and are written at their first use."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml

from benchmarks.synthetic import Size, write
from deployments.artifact.reader import Artifact
from deployments.assembly import HISTORIES

FOLDER = Path("artifacts/bench")
UNKNOWN = 0.05
"""Share of the requests from users without history."""


@dataclass(frozen=True)
class Workload:
    """`what`: its description in RESULTS.md; `size`: of the synthetic artifact, None for the configured artifact;
    `stages`: changes to `args.stages`; `zipf`: exponent of the users' request rates, 0 for equal rates."""

    what: str
    size: Size | None = None
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    zipf: float = 0.0

    def artifact(self, name: str) -> str:
        """The folder of the synthetic artifact; writes it if it is missing."""
        assert self.size is not None
        path = FOLDER / name
        if not path.exists():
            write(str(path), self.size)
        return str(path)


WORKLOADS = {
    "movielens": Workload("9,066 items, 671 users with equal request rates, 300 candidates, the trained model"),
    "reference": Workload(
        "200,000 items, 100,000 users, Zipf 1.0, 500 candidates, DCN-V2 with cross rank 64 and 512-256-128 on each; "
        "two Scorers where they are replicas",
        Size(items=200_000, users=100_000, cross_rank=64, deep=(512, 256, 128)),
        {"candidates": {"config": {"n_candidates": 500}}, "scoring": {"replicas": 2, "min_replicas": 2}},
        zipf=1.0,
    ),
    "synthetic-1m": Workload(
        "1,000,000 items, 1,000,000 users with histories in the store, Zipf 1.0, 500 candidates, a model as trained",
        Size(items=1_000_000, users=1_000_000),
        {"candidates": {"config": {"n_candidates": 500}}},
        zipf=1.0,
    ),
    "light": Workload(
        "200 items, 10,000 users with equal request rates, 20 candidates: next to no model work",
        Size(items=200, neighbours=4, wide=0.1, cross_rank=4, deep=(8,)),
        {"candidates": {"config": {"n_candidates": 20}}, "ranking": {"config": {"diversity": 0.0}}},
    ),
}


def config(base: str, name: str, folder: Path) -> str:
    """The config file at `base`, changed for the workload; `base` itself for the configured artifact."""
    workload = WORKLOADS[name]
    if workload.size is None:
        return base
    loaded: dict[str, Any] = copy.deepcopy(yaml.safe_load(Path(base).read_text("utf-8")))
    args = next(app["args"] for app in loaded["applications"] if app["name"] == "recommender")
    args["artifact"] = workload.artifact(name)
    for stage, changed in workload.stages.items():
        config = args["stages"][stage]["config"] | changed.get("config", {})
        args["stages"][stage] |= changed | {"config": config}
    args["stages"]["ranking"]["config"].pop("category", None)
    args["drift"] = {"enabled": False}  # a synthetic artifact has no drift reference
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(loaded), "utf-8")
    return str(path)


def bodies(
    artifact: Artifact,
    folder: Path,
    zipf: float,
    count: int = 200_000,
    seed: int = 1,
    new: float = UNKNOWN,
    n: int = 10,
) -> Path:
    """Writes requests for `n` items, one per line: from users of the artifact, and a share `new` from unknown users."""
    rng = np.random.default_rng(seed)
    users = artifact.table(HISTORIES).column("user_id").unique()
    share_U = 1 / np.arange(1, len(users) + 1) ** zipf
    drawn = rng.permutation(len(users))[rng.choice(len(users), count, p=share_U / share_U.sum())]
    names = users.take(drawn.tolist()).to_pylist()
    new_C = rng.random(count) < new
    path = folder / "bodies.jsonl"
    lines = [orjson.dumps({"user_id": f"new-{i}" if new_C[i] else user, "n": n}) for i, user in enumerate(names)]
    path.write_bytes(b"\n".join(lines))
    return path
