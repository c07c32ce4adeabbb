"""The ranker's features: sources, user, item, and how the item compares with the user's history.

Shapes: B requests, K candidates, R real candidates of all requests, C content values (genres, …), A item attributes
(numeric ones, popularity, quality), F features in all. The same code makes the training data and serves.

Features of the item alone are computed once per artifact, those of the user alone once per request, the others per
candidate (feature_kernels.py). Each column is standardised where it is computed, with the model's standardisation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deployments.artifact.reader import Artifact
from deployments.artifact.sources import SOURCE_HISTORY_LENGTH
from deployments.messages import Array, Bools, CandidateBatch, Floats, Ints, ProfileBatch
from deployments.models.features import history_weights
from deployments.models.features.feature_kernels import (
    HistorySummaries,
    ItemFeatures,
    Standardisation,
    fill_rows,
    summarise_histories,
)
from deployments.models.features.own_events import fill_own_events, slots
from deployments.models.features.ranker_inputs import SUMMARY_DECAYS, own_event_names
from deployments.models.features.schema import Schema


class RankingFeatures:
    """Computes features from messages and `item_features.safetensors`; without `standard` they are not standardised.

    content_NC: 1 where an item has the value. attributes_NA: standardised numeric attributes, then log popularity
    among successes and mean weight. log_events_N: log of all events.
    """

    def __init__(self, artifact: Artifact, standard: Standardisation | None = None) -> None:
        tensors = artifact.tensors("item_features.safetensors")
        schema = Schema.load(artifact)
        self._event_types = schema.event_types
        self.names = [feature.name for feature in schema.ranker]
        if standard is None:
            standard = Standardisation(
                np.zeros(len(self.names), np.float32), np.ones(len(self.names), np.float32), np.inf
            )
        mean_F, scale_F, clip = standard
        self._standard = Standardisation(_read_only(mean_F, np.float32), _read_only(scale_F, np.float32), clip)
        attributes_NA: Floats = tensors["attributes_NA"]
        columns_NI = np.concatenate([attributes_NA, tensors["log_events_N"][:, None] / 3 - 1], axis=1, dtype=np.float32)
        self._item_I = _places(schema, "item")
        item_V, value_V = np.nonzero(tensors["content_NC"])
        first_N = np.searchsorted(item_V, np.arange(len(attributes_NA) + 1)).astype(np.int32)
        columns_NI = self._standardise(columns_NI, self._item_I)
        self._items = ItemFeatures(
            _read_only(first_N, np.int32),
            _read_only(value_V, np.int32),
            _read_only(attributes_NA, np.float32),
            _read_only(columns_NI, np.float32),
            tensors["content_NC"].shape[1],
        )
        self._n_sources = len(schema.of_source("source_score"))
        own = () if self._event_types is None else own_event_names(self._event_types)
        self._user_W = _places(schema, "user", less=own)

    def __call__(self, profiles: ProfileBatch, candidates: CandidateBatch) -> Floats:
        """Features [B, K, F], in the order of `names`; undefined where the candidate is padding."""
        shape = candidates.item_ids_BK.shape
        all_BK = np.ones(shape, np.bool_)
        return self._rows(profiles, candidates, np.maximum(candidates.item_ids_BK, 0), all_BK).reshape(*shape, -1)

    def rows(self, profiles: ProfileBatch, candidates: CandidateBatch) -> Floats:
        """Features [R, F] of the candidates that are not padding, request after request."""
        return self._rows(profiles, candidates, candidates.item_ids_BK, candidates.mask_BK)

    def _rows(self, profiles: ProfileBatch, candidates: CandidateBatch, item_BK: Ints, mask_BK: Bools) -> Floats:
        rows_RF = np.empty((int(mask_BK.sum()), len(self.names)), np.float32)
        users = self._users(profiles)
        scores_BKS = candidates.source_scores_BKS
        assert scores_BKS.shape[2] == self._n_sources
        fill_rows(
            self._items,
            users,
            self._standard,
            _read_only(item_BK, np.int32),
            _read_only(mask_BK, np.bool_),
            _read_only(scores_BKS, np.float32),
            rows_RF,
        )
        if self._event_types is not None:
            self._fill_own_events(profiles, item_BK, mask_BK, rows_RF)
        return rows_RF

    def _fill_own_events(self, profiles: ProfileBatch, item_BK: Ints, mask_BK: Bools, rows_RF: Floats) -> None:
        fill_own_events(
            _read_only(profiles.item_BH, np.int32),
            _read_only(profiles.weight_BH, np.float32),
            _read_only(profiles.type_BY, np.int16),
            _read_only(profiles.age_BY, np.float32),
            _read_only(list(SUMMARY_DECAYS.values()), np.float32),
            len(self._event_types or ()),
            SOURCE_HISTORY_LENGTH,
            slots(SOURCE_HISTORY_LENGTH),
            self._standard.mean_F,
            self._standard.scale_F,
            np.float32(self._standard.clip),
            _read_only(item_BK, np.int32),
            _read_only(mask_BK, np.bool_),
            rows_RF,
        )

    def _users(self, profiles: ProfileBatch) -> HistorySummaries:
        users = summarise_histories(
            self._items,
            _read_only(profiles.item_BH, np.int32),
            _read_only(profiles.weight_BH, np.float32),
            _read_only(profiles.features_BF, np.float32),
            _read_only(list(SUMMARY_DECAYS.values()), np.float32),
            SOURCE_HISTORY_LENGTH,
            history_weights.SUCCESS_THRESHOLD,
        )
        return users._replace(columns_BW=self._standardise(users.columns_BW, self._user_W).astype(np.float32))

    def _standardise(self, columns_RX: Floats, column_X: Ints) -> Floats:
        mean_F, scale_F, clip = self._standard
        standardised: Floats = np.clip((columns_RX - mean_F[column_X]) * scale_F[column_X], -clip, clip)
        return standardised


def _read_only(values: npt.ArrayLike, dtype: npt.DTypeLike) -> Array:
    """`values` as a read-only contiguous array: the one type that the kernels are compiled for."""
    array = np.ascontiguousarray(values, dtype).view()
    array.setflags(write=False)
    return array


def _places(schema: Schema, per: str, less: Sequence[str] = ()) -> Ints:
    """Indices among the F features of those of the user or of the item alone; `less`: names of others."""
    return np.array(
        [f for f, feature in enumerate(schema.ranker) if feature.per == per and feature.name not in less], np.int32
    )
