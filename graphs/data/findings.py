"""What was found while data were read: notes for the user, and faults, which are collected and raised together."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from deployments.errors import DataError

MOST_SHOWN = 12
"""Names that one sentence lists."""

_MOST_CHARACTERS = 60


class DataFaults(DataError):
    """Everything that is wrong with a data set, one sentence per fault."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        super().__init__("; ".join(self.faults))

    def __reduce__(self) -> tuple[type[DataFaults], tuple[list[str]]]:
        return type(self), (self.faults,)


@dataclass(slots=True)
class Findings:
    """Sentences about one data set, in the order in which they were found."""

    notes: list[str] = field(default_factory=list)
    """What was left out, filled in or changed."""
    faults: list[str] = field(default_factory=list)
    """What has to be mended before training."""

    def note(self, sentence: str) -> None:
        """Adds a note, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def fault(self, sentence: str) -> None:
        """Adds a fault, once."""
        if sentence not in self.faults:
            self.faults.append(sentence)

    def raise_faults(self) -> None:
        """Raises DataFaults if there are any."""
        if self.faults:
            raise DataFaults(self.faults)


def shown(value: object) -> str:
    """A value for a sentence: quoted, and cut if it is long."""
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."


def listed(names: Collection[object]) -> str:
    """Names for a sentence: the first MOST_SHOWN, and how many more there are."""
    first = [str(name) for name in list(names)[:MOST_SHOWN]]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "") if first else "none"


def counted(count: int, one: str, many: str = "") -> str:
    """`1 event`, `1,234 events`."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def near(name: str, known: Collection[str]) -> str:
    """The known name closest to `name`, in any case; empty if none is close."""
    lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.7)
    return lower[found[0]] if found else ""
