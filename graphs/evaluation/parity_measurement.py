"""Measures a combination of backend and precision against the plain model; the parity gate decides by the result.

Shapes: B requests, K candidates, R candidates that are no padding, T places in an answer.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from deployments.artifact.reader import Artifact
from deployments.models.backends import machine
from deployments.models.backends.parity_gate import PLAIN, Gate
from deployments.models.backends.precision import Precision
from deployments.models.backends.row_chunks import Run
from deployments.models.backends.selection import Backend, start
from deployments.models.features.ranking_features import RankingFeatures
from deployments.models.fused_dcn_v2 import FusedDCNv2
from deployments.stages.scoring import load_ranker, standardisation
from graphs.evaluation.held_out import TOP, HeldOutRequests
from monitoring.drift.ranking_metrics import ndcg


def measure_parity(
    artifact: Artifact, held_out: HeldOutRequests, backend: Backend, precision: Precision, device: str
) -> Gate:
    """Runs the combination as the Scorer does, on every held-out request.

    Raises:
        BackendUnavailable: it can't run here.
    """
    model = load_ranker(artifact)
    run = start(artifact, FusedDCNv2(model), backend, precision, device)
    plain = start(artifact, FusedDCNv2(model), *PLAIN, device)
    features = RankingFeatures(artifact, standardisation(model))
    overlap, found_ndcg, plain_ndcg, speedup = [], [], [], []
    for batch in held_out.batches:
        mask_BK = batch.candidates.mask_BK
        scores_BK = np.full(mask_BK.shape, -np.inf, np.float32)
        with torch.inference_mode():
            rows = torch.from_numpy(features.rows(batch.profiles, batch.candidates)).to(device)
            (scores_R, took_s), (_, plain_s) = _timed(run, rows), _timed(plain, rows)
            scores_BK[mask_BK] = scores_R.numpy()
            speedup.append(plain_s / took_s)
        hit_BT, plain_hit_BT = (np.zeros((len(mask_BK), TOP), np.bool_) for _ in range(2))
        for b, relevant_K in enumerate(batch.relevant_BK):
            length = min(TOP, int(mask_BK[b].sum()))
            best, plain_best = (
                np.argsort(-score_BK[b], kind="stable")[:length] for score_BK in (scores_BK, batch.trained_scores_BK)
            )
            overlap.append(len(np.intersect1d(best, plain_best)) / max(1, length))
            hit_BT[b, :length], plain_hit_BT[b, :length] = relevant_K[best], relevant_K[plain_best]
        found_ndcg.append(ndcg(hit_BT, batch.n_relevant_B, TOP))
        plain_ndcg.append(ndcg(plain_hit_BT, batch.n_relevant_B, TOP))
    return Gate(
        requests=len(overlap),
        overlap=float(np.mean(overlap)),
        ndcg=float(np.concatenate(found_ndcg).mean()),
        plain_ndcg=float(np.concatenate(plain_ndcg).mean()),
        speedup=round(float(np.median(speedup)), 3),
        built_for=machine.signature(device, precision),
    )


def _timed(run: Run, rows_RF: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The scores [R] on the CPU, and the seconds of the faster of two calls, on one thread as in a replica."""
    seconds, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(2):
        began = time.perf_counter()
        scores_R = run(rows_RF).cpu()
        seconds.append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    return scores_R, min(seconds)
