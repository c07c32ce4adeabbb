"""Backends and precisions of the scoring stage: the contract on each, the parity gate, and the fallbacks.

Longer than 300 lines: packaging takes seconds, so one artifact with every combination serves all of these tests.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from rich.console import Console

from deployments.api.operations import Recommender
from deployments.artifact.reader import Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.errors import ConfigError
from deployments.messages import Batch, CandidateBatch, ProfileBatch, RequestBatch
from deployments.models.backends import machine, parity_gate, row_chunks, selection
from deployments.models.backends.parity_gate import Gate
from deployments.models.backends.precision import Precision, in_precision
from deployments.models.backends.selection import Backend, RunningModel, start
from deployments.models.backends.unavailable import BackendUnavailable
from deployments.models.fused_dcn_v2 import FusedDCNv2
from deployments.pipeline.stage_client import local
from deployments.stages.candidates import CandidateConfig, CandidateGenerator
from deployments.stages.contract import Stage
from deployments.stages.profile import ProfileConfig, Profiles
from deployments.stages.scoring import Scorer, ScorerConfig, load_ranker
from graphs.__main__ import main
from graphs.data.dataset import load_dataset
from graphs.evaluation.held_out import hold_out
from graphs.fit.packaging import package
from tests.contracts.stage_contract import StageContract
from tests.deployments.stages.test_model_stages import histories, requests
from tests.support.small_dataset import small_args

COMBINATIONS: list[tuple[Backend, Precision]] = [
    ("compiled", "fp32"),
    ("compiled", "bf16"),
    ("eager", "fp16"),
    ("eager", "bf16"),
    ("eager", "int8"),
]


@pytest.fixture(scope="module")
def packaged(trained_artifact: Artifact, dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The trained artifact with every combination that this file runs."""
    path = tmp_path_factory.mktemp("packaged") / "small"
    shutil.copytree(trained_artifact.folder, path)
    with ArtifactWriter(path) as writer:
        writer.copy_from(trained_artifact)
        asked = [pair for pair in COMBINATIONS if pair != ("compiled", "fp32")]
        held_out = hold_out(writer.preview(), load_dataset(str(dataset_folder)), small_args("").stages)
        package(writer, held_out, asked, Console(quiet=True))
    return Artifact.open(str(path))


def gated(artifact: Artifact, folder: Path, **entries: Gate) -> Artifact:
    """A copy of the artifact with other gates; `__` stands for the dash."""
    with ArtifactWriter(folder / "gated") as writer:
        writer.copy_from(artifact)
        writer.gates |= {name.replace("__", "-"): gate.model_dump(mode="json") for name, gate in entries.items()}
    return Artifact.open(str(folder / "gated"))


def stage_inputs(artifact: Artifact, n: int) -> tuple[RequestBatch, ProfileBatch, CandidateBatch]:
    profiles = Profiles(artifact, ProfileConfig())(histories(artifact.model_version, n))
    wanted = requests(artifact.model_version, n)
    return wanted, profiles, CandidateGenerator(artifact, CandidateConfig(n_candidates=60))(wanted, profiles)


def needs_compiler(artifact: Artifact) -> None:
    gate = parity_gate.find_gate(artifact, "compiled", "fp32")
    assert gate is not None
    if gate.unavailable:
        pytest.skip(gate.unavailable)


class BackendContract(StageContract):
    """The scoring stage on one combination, whether or not it passed the gate."""

    backend: Backend = "eager"
    precision: Precision

    @pytest.fixture(autouse=True)
    def _packaged(self, packaged: Artifact) -> None:
        self.inputs = stage_inputs(packaged, 12)[1:]

    @pytest.fixture
    def stage(self, packaged: Artifact) -> Stage:
        if self.backend == "compiled":
            needs_compiler(packaged)
        scorer = Scorer(packaged, ScorerConfig())
        run = start(packaged, FusedDCNv2(load_ranker(packaged)), self.backend, self.precision, "cpu")
        scorer.running = RunningModel(run, self.backend, self.precision)
        return scorer

    def batches(self, n: int) -> tuple[Batch, ...]:
        return tuple(batch.take(slice(n)) for batch in self.inputs)

    def test_one_candidate_is_scored_as_among_many(self, stage: Stage) -> None:
        """Compiled code has a least number of rows."""
        profiles, candidates = self.inputs
        single = candidates.take([4])
        single.mask_BK[:, 1:] = False
        score = stage(profiles.take([4]), single).scores_BK[0, 0]  # type: ignore[attr-defined]
        expected = stage(profiles, candidates).scores_BK[4, 0]  # type: ignore[attr-defined]
        assert score == pytest.approx(expected, rel=self.tolerance, abs=self.tolerance)


class TestCompiled(BackendContract):
    backend, precision, tolerance = "compiled", "fp32", 1e-4


class TestCompiledInBf16(BackendContract):
    """Sums round differently for different numbers of rows, and bf16 keeps 8 bits."""

    backend, precision, tolerance = "compiled", "bf16", 3e-2


class TestEagerInFp16(BackendContract):
    precision, tolerance = "fp16", 5e-3


class TestEagerInBf16(BackendContract):
    precision, tolerance = "bf16", 3e-2


def scores(artifact: Artifact, backend: Backend, precision: Precision) -> np.ndarray[Any, Any]:
    _, profiles, candidates = stage_inputs(artifact, 12)
    scorer = Scorer(artifact, ScorerConfig())
    scorer.running = RunningModel(
        start(artifact, FusedDCNv2(load_ranker(artifact)), backend, precision, "cpu"), backend, precision
    )
    return scorer(profiles, candidates).scores_BK[candidates.mask_BK]


@pytest.mark.parametrize(("backend", "precision"), COMBINATIONS)
def test_scores_equal_the_plain_models_within_the_precision(
    packaged: Artifact, backend: Backend, precision: Precision
) -> None:
    if backend == "compiled":
        needs_compiler(packaged)
    expected, found = scores(packaged, "eager", "fp32"), scores(packaged, backend, precision)
    tolerance = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 5e-2, "int8": 0.1}[precision]
    assert np.abs(found - expected).max() < tolerance
    if precision != "fp32":
        assert np.abs(found - expected).max() > 1e-5, "it computed in fp32"


@pytest.mark.parametrize("backend", ["eager", "compiled"])
def test_rows_computed_in_chunks_have_the_same_scores(
    packaged: Artifact, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "compiled":
        needs_compiler(packaged)
    whole = scores(packaged, backend, "fp32")
    width = FusedDCNv2(load_ranker(packaged)).first.out_features
    monkeypatch.setattr(row_chunks, "CHUNK_BYTES", 4 * width * 7)
    assert len(whole) % 7 > 0
    np.testing.assert_allclose(scores(packaged, backend, "fp32"), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 255, 256, 300, 1000])
def test_half_precision_computes_few_different_numbers_of_rows(
    packaged: Artifact, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """oneDNN generates code for each."""
    monkeypatch.setattr(row_chunks, "HALF_CHUNK_ROWS", 512)
    model, seen = FusedDCNv2(load_ranker(packaged)), []
    whole = selection._start(packaged, model, "eager", "bf16", "cpu")

    def counting(rows_RF: torch.Tensor) -> torch.Tensor:
        seen.append(len(rows_RF))
        return whole(rows_RF)

    monkeypatch.setattr(selection, "_start", lambda *_: counting)
    run = start(packaged, model, "eager", "bf16", "cpu")
    assert seen == [256, 512], "the code of every size is generated before the first call"
    rows_RF = torch.randn(count, model.first.in_features, generator=torch.Generator().manual_seed(count))
    with torch.inference_mode():
        np.testing.assert_allclose(run(rows_RF), model(rows_RF), atol=0.1)
    assert set(seen) == {256, 512}


def test_int8_of_a_model_with_one_dense_layer_is_refused_with_the_remedy(artifact: Artifact) -> None:
    model = FusedDCNv2(load_ranker(artifact))
    model.hidden = torch.nn.ModuleList()
    with pytest.raises(BackendUnavailable, match="this model has one; use bf16 or fp32"):
        in_precision(model, "int8", "cpu")


def test_packaging_records_its_measurements(packaged: Artifact) -> None:
    assert set(packaged.manifest.gates) == {parity_gate.combination(*pair) for pair in COMBINATIONS}
    for backend, precision in COMBINATIONS:
        gate = parity_gate.find_gate(packaged, backend, precision)
        assert gate is not None
        if not gate.unavailable:
            assert gate.requests > 100
            assert 0.5 < gate.overlap <= 1
            assert gate.plain_ndcg > 0.1


def test_compiled_fp32_passes_the_gate_and_serves(packaged: Artifact) -> None:
    needs_compiler(packaged)
    scorer = Scorer(packaged, ScorerConfig(backend="compiled"))
    _, profiles, candidates = stage_inputs(packaged, 3)
    answer = scorer(profiles, candidates)
    assert (answer.ran_on, answer.fallback_reason) == ("compiled-fp32", "")


def test_a_combination_that_exists_nowhere_is_refused_in_the_config() -> None:
    with pytest.raises(ValidationError, match="int8 runs on backend eager alone, not on compiled; use eager, or fp16"):
        ScorerConfig(backend="compiled", precision="int8")


AMX = {"device": "cpu", "half": "AMX"}


@pytest.mark.parametrize(
    ("half", "expected"),
    [
        (Gate(overlap=1.0, speedup=2.5, built_for=AMX), "bf16"),
        (Gate(overlap=1.0, speedup=1.1, built_for=AMX), "fp32"),
        (Gate(overlap=0.98, speedup=2.5, built_for=AMX), "fp32"),
        (Gate(overlap=1.0, speedup=2.5, built_for={"device": "cpu", "half": "AVX512_BF16"}), "fp32"),
        (Gate(unavailable="no compiler"), "fp32"),
    ],
    ids=["passed", "slower than fp32", "failed the gate", "measured on another machine", "not made"],
)
def test_auto_is_the_fastest_that_passed_on_this_kind_of_machine(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: Gate, expected: str
) -> None:
    monkeypatch.setattr(
        machine, "signature", lambda device, precision: AMX if precision != "fp32" else {"device": device}
    )
    plain = Gate(overlap=1.0, speedup=1.2, built_for={"device": "cpu"})
    found = gated(artifact, tmp_path, compiled__fp32=plain, compiled__bf16=half)
    assert selection.fastest_precision(found, "compiled", "cpu") == expected


def test_auto_on_eager_is_fp32_unless_another_was_faster(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "signature", lambda *_: AMX)
    for speedup, expected in ((0.4, "fp32"), (2.0, "bf16")):
        half = Gate(overlap=1.0, speedup=speedup, built_for=AMX)
        assert selection.fastest_precision(gated(artifact, tmp_path, eager__bf16=half), "eager", "cpu") == expected


@pytest.mark.parametrize(("products", "expected"), [("", ["fp32"]), ("AMX", ["fp32", "bf16"])])
def test_packaging_for_auto_tries_half_precision_where_the_cpu_has_its_products(
    monkeypatch: pytest.MonkeyPatch, products: str, expected: list[str]
) -> None:
    monkeypatch.setattr(machine, "half_precision_support", lambda _: products)
    assert selection.precisions_to_measure("auto", "cpu") == expected
    assert selection.precisions_to_measure("fp16", "cpu") == ["fp16"]


def test_auto_serves_in_the_fastest_precision(packaged: Artifact) -> None:
    needs_compiler(packaged)
    scorer = Scorer(packaged, ScorerConfig(backend="compiled", precision="auto"))
    _, profiles, candidates = stage_inputs(packaged, 3)
    answer = scorer(profiles, candidates)
    assert answer.ran_on == f"compiled-{selection.fastest_precision(packaged, 'compiled', 'cpu')}"
    assert not answer.fallback_reason


def test_auto_needs_the_gate_of_fp32(packaged: Artifact, tmp_path: Path) -> None:
    failed = gated(packaged, tmp_path, compiled__fp32=Gate(overlap=0.5, requests=1000))
    with pytest.raises(ConfigError, match="backend compiled, precision fp32 failed: top-10 overlap"):
        Scorer(failed, ScorerConfig(backend="compiled", precision="auto"))


def test_half_precision_errs_far_less_than_its_eight_bits(packaged: Artifact) -> None:
    """The cross layers and the last sum are computed in fp32."""
    plain, half = scores(packaged, "eager", "fp32"), scores(packaged, "eager", "bf16")
    assert np.abs(half - plain).max() < 2.0**-8 * np.abs(plain).max()
    cast = FusedDCNv2(load_ranker(packaged)).to(torch.bfloat16)
    _, profiles, candidates = stage_inputs(packaged, 12)
    rows_RF = torch.from_numpy(Scorer(packaged, ScorerConfig()).features.rows(profiles, candidates))
    with torch.inference_mode():
        naive = cast(rows_RF.to(torch.bfloat16)).float().numpy()
    assert np.abs(half - plain).mean() < np.abs(naive - plain).mean() / 2


def test_code_for_another_machine_is_not_loaded_and_eager_serves(
    packaged: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_compiler(packaged)
    here = machine.signature("cpu")
    monkeypatch.setattr(machine, "signature", lambda *_: here | {"capability": "AVX-1024"})
    scorer = Scorer(packaged, ScorerConfig(backend="compiled"))
    _, profiles, candidates = stage_inputs(packaged, 3)
    answer = scorer(profiles, candidates)
    assert answer.ran_on == "eager-fp32"
    assert answer.fallback_reason.startswith(
        "eager-fp32 stands in; compiled-fp32 can't run here: its code was compiled for cpu"
    )
    assert "AVX-1024" in answer.fallback_reason
    expected = Scorer(packaged, ScorerConfig())(profiles, candidates)
    np.testing.assert_array_equal(answer.scores_BK, expected.scores_BK)


def test_without_a_compiler_packaging_reports_it_and_eager_serves(
    artifact: Artifact, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    console = Console(record=True, width=200)
    with ArtifactWriter(tmp_path / "made") as writer:
        writer.copy_from(artifact)
        held_out = hold_out(writer.preview(), load_dataset(str(dataset_folder)), small_args("").stages)
        package(writer, held_out, [("compiled", "fp32")], console)
    assert "compiled-fp32: not made: no C++ compiler (no-such-compiler) where the artifact" in console.export_text()
    scorer = Scorer(Artifact.open(str(tmp_path / "made")), ScorerConfig(backend="compiled"))
    assert scorer.running.backend == "eager"
    assert "no C++ compiler (no-such-compiler)" in scorer.running.fallback_reason


def test_tensorrt_without_a_gpu_falls_back_to_the_compiled_model_then_to_eager(
    packaged: Artifact, tmp_path: Path
) -> None:
    passed = Gate(requests=1000, overlap=1.0, ndcg=0.1, plain_ndcg=0.1)
    artifact = gated(packaged, tmp_path, tensorrt__fp32=passed, tensorrt__fp16=passed)
    scorer = Scorer(artifact, ScorerConfig(backend="tensorrt", device="cpu"))
    assert (
        "tensorrt-fp32 can't run here: TensorRT needs a GPU and this replica has none" in scorer.running.fallback_reason
    )
    assert scorer.running.backend == "compiled" or not shutil.which("g++")
    half = Scorer(artifact, ScorerConfig(backend="tensorrt", precision="fp16", device="cpu"))
    assert (half.running.backend, half.running.precision) == ("eager", "fp32"), "compiled fp16 was not gated"


async def test_readiness_and_metrics_report_a_fallback_backend(
    trained_artifact: Artifact, trained_in_process: Callable[..., Recommender], monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = trained_in_process(starts={"scoring": local(Scorer(trained_artifact, ScorerConfig()), 4)})
    await configured.readiness.warm_up()
    assert (await configured.health())["scoring"] == "as configured"
    assert b"rayfunnel_backend_stand_in_total{" not in await configured.metrics()

    monkeypatch.setattr(machine, "signature", lambda *_: {"device": "another"})
    recommender = trained_in_process(
        starts={"scoring": local(Scorer(trained_artifact, ScorerConfig(backend="compiled")), 4)}
    )
    await recommender.readiness.warm_up()
    health = await recommender.health()
    assert health["status"] == "ready"
    assert health["scoring"].startswith("eager-fp32 stands in; compiled-fp32 can't run here: ")
    expected = b'rayfunnel_backend_stand_in_total{backend="eager-fp32",stage="scoring"} 1.0'
    assert expected in await recommender.metrics()


def test_the_command_adds_a_combination_and_keeps_the_model(
    artifact: Artifact, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "small"
    shutil.copytree(artifact.folder, path)
    config = tmp_path / "config.yaml"
    config.write_text(
        "applications:\n- import_path: graphs.recommendation:build\n"
        f"  args: {{artifact: {path}, stages: {{candidates: {{config: {{n_candidates: 100}}}}}}}}\n"
    )
    words = ["package", str(path), "--precision", "fp16", "--data", str(dataset_folder), "--config", str(config)]
    monkeypatch.setattr("sys.argv", ["graphs", *words])
    status = main()
    made = Artifact.open(str(path))
    gate = parity_gate.find_gate(made, "eager", "fp16")
    assert gate is not None
    assert status == (0 if gate.passed else 1)
    assert made.model_version == artifact.model_version
    assert made.manifest.gates.keys() == artifact.manifest.gates.keys() | {"eager-fp16"}
