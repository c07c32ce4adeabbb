"""Writes the Grafana dashboards beside this file: `python -m monitoring.dashboards` (extra `dashboards`)."""

from __future__ import annotations

import sys
from pathlib import Path

from monitoring.alerts.values import load
from monitoring.dashboards.build import rendered

FOLDER = Path(__file__).parent


def main() -> int:
    """Writes one JSON file per dashboard."""
    files = rendered(load())
    for name, text in files.items():
        (FOLDER / name).write_text(text, "utf-8")
    print(f"{FOLDER}: {', '.join(files)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
