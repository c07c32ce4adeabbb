"""Renders values.yaml into the files of Prometheus and Alertmanager: `python -m monitoring.alerts`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from monitoring.alerts import alertmanager, prometheus
from monitoring.alerts.values import AlertValues, load

RENDERED = Path(__file__).with_name("rendered")
_HEAD = "# Rendered by `python -m monitoring.alerts` from values.yaml; change that.\n"


def rendered(values: AlertValues) -> dict[str, str]:
    """File name → text."""
    files = {
        prometheus.RULES: prometheus.rules(values),
        "prometheus.yaml": prometheus.config(values),
        "alertmanager.yaml": alertmanager.config(values),
    }
    return {name: _HEAD + _dumped(content) for name, content in files.items()}


def write(values: AlertValues, folder: Path) -> None:
    """Writes the files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in rendered(values).items():
        (folder / name).write_text(text, "utf-8")


def _dumped(content: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(content, sort_keys=False, width=10_000, allow_unicode=True)
    return text


def main() -> int:
    """Parses the arguments and writes; wrong values are one line and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.alerts", description=__doc__)
    parser.add_argument("--values", help="a YAML file of your own values, laid over those of values.yaml")
    parser.add_argument("--out", default=RENDERED, type=Path, help="folder of the files")
    args = parser.parse_args()
    try:
        write(load(args.values), args.out)
    except (OSError, ValueError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {', '.join(rendered(load(args.values)))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
