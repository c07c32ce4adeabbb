"""`python -m graphs plan`: what is measured of an artifact, the overlay, refusals in a sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from deployments.models.fused_dcn_v2 import FusedDCNv2
from deployments.stages.scoring import load_ranker
from graphs.__main__ import main
from graphs.commands import gpu_footprint
from graphs.commands.gpu_plan import apply_overlay
from graphs.config import RecommenderArgs
from graphs.config_file import load, recommender_args
from tests.support.paths import ROOT

CONFIG = ROOT / "serve_config.yaml"


@pytest.fixture
def config_path(artifact_path: str, tmp_path: Path) -> str:
    """serve_config.yaml over the small artifact."""
    config = yaml.safe_load(CONFIG.read_text("utf-8"))
    for application in config["applications"]:
        if application["name"] == "recommender":
            application["args"]["artifact"] = artifact_path
            application["args"]["stages"]["candidates"]["config"]["n_candidates"] = 100
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, config_path: str) -> Any:
    """The command with these arguments and this file of needs; (exit status, stdout, stderr)."""

    def run(*arguments: str, needs: object = None) -> tuple[int, str, str]:
        given = ["plan", config_path, *arguments]
        if needs is not None:
            path = tmp_path / "needs.yaml"
            path.write_text(needs if isinstance(needs, str) else yaml.safe_dump(needs))
            given += ["--needs", str(path)]
        monkeypatch.setattr(sys, "argv", ["graphs", *given])
        status = main()
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_the_peak_is_what_is_alive_at_a_time_and_nothing_is_allocated() -> None:
    class Chain(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x + 1  # x, y
            z = y.repeat(1, 3)  # x, y, z
            del y
            return z[:, :2] * 2  # x, z, two columns

    assert gpu_footprint.peak_bytes(Chain(), 10) == 4 * (10 + 10 + 30)


def test_half_precision_halves_the_dense_layers_and_more_candidates_or_threads_need_more(artifact: Any) -> None:
    full, half = (gpu_footprint.scorer(artifact, precision, 100, 1) for precision in ("fp32", "fp16"))
    dense = FusedDCNv2(load_ranker(artifact))
    halved = dense.widths[1] * (dense.first.in_features + 1) + sum(p.numel() for p in dense.hidden.parameters())
    assert full[0] - half[0] == 2 * halved
    assert half[1] < full[1]
    assert gpu_footprint.scorer(artifact, "fp32", 200, 1)[1] == pytest.approx(2 * full[1], abs=2)
    assert gpu_footprint.scorer(artifact, "fp32", 100, 2)[1] == pytest.approx(2 * full[1], abs=2)


def test_the_merged_config_is_one_that_can_be_deployed(run: Any, tmp_path: Path, config_path: str) -> None:
    overlay, merged = tmp_path / "overlay.yaml", tmp_path / "merged.yaml"
    status, out, err = run("--gpus", "T4:2x2", "--out", str(overlay), "--merged", str(merged))
    assert (status, err) == (0, "")
    assert "compute assumed" in out
    args = recommender_args(load(str(merged)))
    assert (args.stages.scoring.num_gpus, args.stages.scoring.max_replicas, args.stages.scoring.max_rows) == (
        0.25,
        16,
        256,
    )
    assert yaml.safe_load(merged.read_text()) == apply_overlay(load(config_path), yaml.safe_load(overlay.read_text()))
    unchanged = args.model_copy(update={"stages": recommender_args(load(config_path)).stages})
    assert unchanged == recommender_args(load(config_path)), "nothing else is touched"


def test_a_small_fraction_lowers_the_batches_of_the_stage_and_of_the_ingress(run: Any, tmp_path: Path) -> None:
    merged = tmp_path / "merged.yaml"
    needs = {"stages": {"scoring": {"fraction": 0.05, "compute": 0.05, "row_kib": 10_240, "max_replicas": 8}}}
    status, _, err = run("--gpus", "T4:1", "--merged", str(merged), needs=needs)
    assert (status, err) == (0, "")
    args: RecommenderArgs = recommender_args(load(str(merged)))
    assert args.stages.scoring.max_replicas == 8
    assert args.stages.scoring.max_rows == args.batcher.max_batch == 23  # (0.05 × 14.5 GiB - 512 MiB) / 10 MiB


def test_stages_share_gpus_of_a_type_of_ones_own(run: Any) -> None:
    needs = {
        "gpus": [{"type": "lab", "gib": 24, "nodes": 1, "per_node": 2}],
        "context_mib": 600,
        "stages": {
            "scoring": {"compute": 0.2, "min_replicas": 2},
            "candidates": {"weights_mib": 9000, "row_kib": 64, "compute": 0.5, "max_replicas": 1},
        },
    }
    status, out, _ = run(needs=needs)
    assert status == 0
    assert "1 candidates, 2 scoring" in out
    assert "5 scoring" in out


@pytest.mark.parametrize(
    ("arguments", "needs", "message"),
    [
        ((), None, "no GPUs to plan for; name them"),
        (("--gpus", "B9000:1"), None, "the memory of a 'B9000' is not known; the types are T4"),
        (("--gpus", "T4:0"), None, "--gpus T4:0: nodes = 0: "),
        (("--gpus", "T4:-1"), None, "--gpus T4:-1: must be TYPE:NODES"),
        (("--gpus", "T4:twox"), None, "--gpus T4:twox: must be TYPE:NODES"),
        (("--gpus", "T4:999999"), None, "nodes = 999999"),
        (("--gpus", "T4:1"), {"stages": {"scoring": {"weights_mib": -1}}}, "stages.scoring.weights_mib = -1"),
        (("--gpus", "T4:1"), "stages: {scoring: {row_kib: .nan}}", "stages.scoring.row_kib = nan"),
        (("--gpus", "T4:1"), "stages: {scoring: {compute: .inf}}", "stages.scoring.compute = inf"),
        (("--gpus", "T4:1"), {"stages": {"scoring": {"fractoin": 1}}}, "stages.scoring.fractoin is not a known key"),
        (("--gpus", "T4:1"), {"stages": {"scorer": {}}}, "stages.scorer is no stage; there are profile"),
        (("--gpus", "T4:1"), {"stages": {"ranking": {}}}, "stages.ranking: its size is not known; declare weights_mib"),
        (("--gpus", "T4:1"), {"stages": {"profile": {}}}, "stages.profile.placement is ingress"),
        (("--gpus", "T4:1"), {"stages": {"scoring": {"max_replicas": 1, "min_replicas": 2}}}, "under min_replicas 2"),
        (("--gpus", "T4:1"), {"stages": {"scoring": {"min_replicas": 9}}}, "does not fit on 1 GPU with"),
        (("--gpus", "T4:1"), {"stages": {"scoring": {"weights_mib": 1e6}}}, "use GPUs of 977.2"),
        (("--gpus", "T4:1"), {"stages": {"scoring": {"weights_mib": 1e300}}}, "stages.scoring.weights_mib = 1e+300"),
        (("--gpus", "T4:1"), {"stages": {"scoring": {"fraction": 0.33333}}}, "must be a multiple of 0.0001"),
        (("--gpus", "T4:1"), "a: [", "is not YAML"),
        (("--gpus", "T4:1"), [1], "must hold a mapping"),
        (("--gpus", "T4:1", "--out", "/nowhere/plan.yaml"), None, "/nowhere/plan.yaml: No such file"),
        (("--gpus", "T4:1", "--needs", "/nowhere/needs.yaml"), None, "/nowhere/needs.yaml: No such file"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_with_the_remedy(
    run: Any, arguments: tuple[str, ...], needs: object, message: str
) -> None:
    status, _, err = run(*arguments, needs=needs)
    assert status == 1
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
