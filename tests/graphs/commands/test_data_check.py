"""`rayfunnel data check`: a profile that a person reads, every fault of broken data, and one clear last line."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from graphs.__main__ import main
from tests.support.paths import ROOT
from tests.support.toy_data import events, items

Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Check:
    """The exit status and output of `data check` on these frames."""

    def run(log: pd.DataFrame, catalogue: pd.DataFrame | None = None, *words: str) -> tuple[int, str]:
        log.to_parquet(tmp_path / "interactions.parquet", index=False)
        if catalogue is not None:
            catalogue.to_parquet(tmp_path / "items.parquet", index=False)
        monkeypatch.setattr(
            sys, "argv", ["rayfunnel", "data", "check", str(tmp_path), "--config", f"{ROOT}/serve_config.yaml", *words]
        )
        status = main()
        out, err = capsys.readouterr()
        assert err == ""
        return status, out

    return run


def test_good_data_are_shown_as_a_whole(check: Check, tmp_path: Path) -> None:
    log = events().assign(event_type=["view", "view", "cart", "Purchase"] * 120, session=1)
    status, out = check(log, items().assign(stock=True, supplier=None))
    assert status == 0
    for shown in (
        r"│ events +│ 480 ",
        r"│ users +│ 40 ",
        r"│ items +│ 60, 0 of them without events",
        r"│ time +│ 2023-11-14 to 2023-11-15",
        r"│ events per user +│ median 12, 90 % have at most 12, the most 12 ",
        r"│ popularity +│ the top 1 % of items have 2% of the events, the top 10 % \d+%",
        r"│ view +│ 240 +│ 0\.4 +│ 0% +│ never",
        r"│ purchase +│ 120 +│ 1 +│ 100% +│ always",
        r"│ price +│ number +│ 100%",
        r"│ stock +│ yes or no +│ 100%",
        r"- items\.parquet: left out: supplier \(empty\)",
        r"- interactions\.parquet: columns that are not used: session",
        r"- stages\.candidates\.config\.n_candidates is 300, but there are 60 items",
    ):
        assert re.search(shown, out), shown
    assert "…" not in out, "nothing is cut in a pipe"
    assert out.splitlines()[-1] == f"{tmp_path}: ready to train, 1 warning"


def skewed() -> pd.DataFrame:
    """The events, on few items mostly."""
    drawn = np.random.default_rng(1).zipf(1.3, 480) % 60
    return events().assign(item_id=[f"i{i}" for i in drawn], timestamp=lambda f: f.timestamp + f.index)


WARNINGS: dict[str, tuple[Callable[[], tuple[pd.DataFrame, pd.DataFrame]], str]] = {
    "a bot": (
        lambda: (
            pd.concat([events(), pd.DataFrame({"user_id": "bot", "item_id": [f"i{i % 60}" for i in range(900)],
                                               "timestamp": 1_700_000_000 + np.arange(900)})]),
            items(),
        ),
        "1 user with absurdly many events, such as 'bot' with 900",
    ),
    "one item": (
        lambda: (events().assign(item_id=lambda f: np.where(f.index % 12 < 7, "i0", f.item_id),
                                 timestamp=lambda f: f.timestamp + f.index), items()),
        "item 'i0' has 59% of all events",
    ),
    "one time": (lambda: (events().assign(timestamp=1_700_000_000), items()), "all events have the same time"),
    "one time per user": (
        lambda: (events().assign(timestamp=lambda f: 1_700_000_000 + f.index // 12), items()),
        "100% of the users have all their events at one time",
    ),
    "old times": (
        lambda: (events().assign(timestamp=lambda f: np.where(f.index == 0, 0, f.timestamp)), items()),
        "0.2% of the events are from before 1980",
    ),
    "a second id": (
        lambda: (events(), items().assign(code=lambda f: "x" + f.item_id)),
        "features that differ for every item say no more than its id: code; leave them out",
    ),
    "a count of the future": (
        lambda: (skewed(), items().assign(sold=items().item_id.map(skewed().item_id.value_counts()).fillna(0) * 10)),
        "features of items that almost equal the popularity in these events: sold",
    ),
    "few users": (lambda: (events(), items()), "only 40 users can be judged by: below 200"),
}  # fmt: skip


@pytest.mark.parametrize("name", WARNINGS)
def test_what_is_likely_wrong_is_warned_of(check: Check, name: str) -> None:
    make, warning = WARNINGS[name]
    status, out = check(*make())
    assert status == 0
    assert warning in out.split("Warnings:")[1]


def at(row: int, name: str, value: object) -> pd.DataFrame:
    """The events with one value changed."""
    frame = events()
    frame[name] = frame[name].astype(object)
    frame.loc[row, name] = value
    frame[name] = frame[name].infer_objects()
    return frame


BROKEN: dict[str, tuple[Callable[[], tuple[pd.DataFrame, pd.DataFrame | None]], list[str]]] = {
    "empty id": (lambda: (at(7, "user_id", ""), items()), ["user_id has empty ids in 1 row, the first '' in row 7"]),
    "missing id": (lambda: (at(3, "item_id", None), items()), ["column item_id has 1 empty value, the first in row 3"]),
    "long id": (lambda: (at(9, "item_id", "x" * 300), items()), ["ids of more than 256 characters in 1 row", "row 9"]),
    "no time": (lambda: (events().drop(columns="timestamp"), items()), ["column timestamp is missing; the file has"]),
    "mixed units": (lambda: (at(5, "timestamp", 1_700_000_000_000), items()), ["holds 1700000000000 in row 5"]),
    "ratings": (lambda: (events().assign(weight=5), items()), ["column weight reaches 5", "success_from"]),
    "clashing items": (
        lambda: (events(), pd.concat([items(), items().head(1).assign(color="pink")])),
        ["items.parquet: item_id 'i0' has several rows that differ, such as in color: 'red' and 'pink'"],
    ),
    "other items": (lambda: (events(), items().assign(item_id=range(60))), ["none of the 60 items of interactions"]),
    "too few": (lambda: (events().head(60), items()), ["5 of 5 users have 2 or more successes", "it takes 10"]),
    "no rows": (lambda: (events().head(0), items()), ["interactions.parquet has no rows"]),
    "two at once": (
        lambda: (at(7, "user_id", "a\tb"), items().assign(item_id=None)),
        ["column user_id has ids with control characters", "items.parquet: column item_id has 60 empty values"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_each_fault_of_broken_data_is_named_and_the_status_is_1(check: Check, tmp_path: Path, name: str) -> None:
    make, parts = BROKEN[name]
    status, out = check(*make())
    assert status == 1
    faults = out.split("Faults:")[1]
    assert all(part in faults for part in parts), faults
    assert re.fullmatch(rf"{tmp_path}: not ready to train: \d faults?", out.splitlines()[-1])


def test_columns_are_named_by_an_option(check: Check) -> None:
    theirs = events().rename(columns={"user_id": "customer", "timestamp": "ts"})
    assert check(theirs)[0] == 1
    assert check(theirs, None, "--columns", "user_id=customer,timestamp=ts")[0] == 0


def test_a_folder_that_does_not_exist_is_one_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["rayfunnel", "data", "check", "/nowhere", "--config", f"{ROOT}/serve_config.yaml"]
    )
    assert main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "/nowhere: not ready to train: 1 fault"
