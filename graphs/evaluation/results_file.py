"""benchmarks/RESULTS.md: one section per measurement, each replaced by the command that makes it."""

from __future__ import annotations

import re
from pathlib import Path

_HEAD = "# Results\n\nGenerated; every section names the command that makes it.\n"


def write_section(out: str, section: str) -> None:
    """Replaces the section with the same `## title` as `section`, or appends it."""
    title = section.split("\n", 1)[0]
    assert title.startswith("## ")
    path = Path(out)
    text = path.read_text("utf-8") if path.is_file() else _HEAD
    head, *sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    kept = [s.rstrip() + "\n" for s in sections]
    for index, old in enumerate(kept):
        if old.split("\n", 1)[0] == title:
            kept[index] = section.rstrip() + "\n"
            break
    else:
        kept.append(section.rstrip() + "\n")
    path.write_text("\n".join([head.rstrip() + "\n", *kept]), "utf-8")
