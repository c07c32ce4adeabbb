"""How the catalogue is divided into shards: which items each shard contains, and their positions there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deployments.messages import PAD, Array, Ints


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard `index` of `count`: the items whose catalogue position modulo `count` is `index`.

    Position p of the catalogue is position p // count in its shard.
    """

    index: int = 0
    count: int = 1

    def size(self, n_items: int) -> int:
        """Number of its items, in a catalogue of `n_items`."""
        return len(range(self.index, n_items, self.count))

    def to_local(self, items: Ints) -> Ints:
        """Its own among `items` (catalogue positions), as positions in the shard."""
        return items if self.count == 1 else (items[items % self.count == self.index] // self.count).astype(np.int32)

    def to_catalogue(self, items: Ints) -> Ints:
        """Positions in the shard as catalogue positions; padding stays."""
        if self.count == 1:
            return items
        return np.where(items >= 0, items * self.count + self.index, PAD).astype(np.int32)

    def select_rows(self, array: Array) -> Array:
        """Its rows of `array` [N of the catalogue, …], read-only and contiguous."""
        if self.count == 1:
            return array
        own = np.ascontiguousarray(array[self.index :: self.count])
        own.setflags(write=False)
        return own


WHOLE_CATALOGUE = Shard()
