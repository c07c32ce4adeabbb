"""Dropout by bytes: the share, the mean and the repeatability of torch's own."""

from __future__ import annotations

import pytest
import torch

from deployments.models.byte_dropout import ByteDropout


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.9])
def test_it_drops_the_share_and_keeps_the_mean(share: float) -> None:
    torch.manual_seed(1)
    dropped = ByteDropout(share)(torch.ones(301, 331))
    assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.03)
    assert len(dropped.unique()) <= 2


def test_every_byte_of_a_word_drops_alike() -> None:
    torch.manual_seed(1)
    dropped = ByteDropout(0.4)(torch.ones(8 * 20_000)).view(-1, 8) == 0
    assert dropped.float().mean(0).tolist() == pytest.approx([0.4] * 8, abs=0.02)


def test_a_seed_repeats_it_and_serving_leaves_values_as_they_are() -> None:
    dropout, values = ByteDropout(0.4), torch.ones(5, 7)
    torch.manual_seed(3)
    first = dropout(values)
    torch.manual_seed(3)
    assert torch.equal(dropout(values), first)
    assert dropout.eval()(values) is values
