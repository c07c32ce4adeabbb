"""Events, items and users of a small shop, as pandas frames: 40 users × 12 events over 60 items."""

from __future__ import annotations

import pandas as pd


def events() -> pd.DataFrame:
    """user_id, item_id, timestamp (seconds)."""
    rows = [(f"u{u}", f"i{(3 * u + k) % 60}", 1_700_000_000 + 3600 * k + u) for u in range(40) for k in range(12)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


def items() -> pd.DataFrame:
    """item_id, title, color, price."""
    return pd.DataFrame(
        {
            "item_id": [f"i{i}" for i in range(60)],
            "title": [f"Title {i}" for i in range(60)],
            "color": [("red", "green", "blue")[i % 3] for i in range(60)],
            "price": [1.5 * (i % 20) for i in range(60)],
        }
    )
