"""The user tower in serving against the trained one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deployments.models.user_tower import TOWER_HISTORY_LENGTH, UserTower
from graphs.fit.towers import TrainableUserTower

WIDTH = 16


@pytest.mark.parametrize("n_features", [0, 3])
@pytest.mark.parametrize(("users", "events"), [(1, TOWER_HISTORY_LENGTH), (7, TOWER_HISTORY_LENGTH), (7, 1)])
def test_the_served_tower_gives_the_vectors_of_the_trained_one(n_features: int, users: int, events: int) -> None:
    torch.manual_seed(3)
    rng = np.random.default_rng(3)
    trained = TrainableUserTower(WIDTH + 1, n_features).eval()
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter)
    vectors_BLW = rng.normal(size=(users, events, WIDTH)).astype(np.float32)
    weight_BL = rng.choice([-1.0, 0.0, 0.4, 0.8, 1.0], (users, events)).astype(np.float32)
    is_event_BL = np.arange(events) < rng.integers(0, events + 1, users)[:, None]
    is_event_BL[0] = False  # nothing is known of the first
    features_BF = rng.normal(size=(users, n_features)).astype(np.float32)
    with torch.inference_mode():
        wanted_BD = trained(
            torch.from_numpy(vectors_BLW),
            torch.from_numpy(weight_BL),
            torch.from_numpy(is_event_BL.astype(np.float32)),
            torch.from_numpy(features_BF),
        ).numpy()
    served = UserTower({name: value.numpy() for name, value in trained.state_dict().items()})
    found_BD = served(vectors_BLW, weight_BL, is_event_BL, features_BF)
    assert found_BD.dtype == np.float32
    np.testing.assert_allclose(found_BD, wanted_BD, rtol=1e-4, atol=1e-4)
