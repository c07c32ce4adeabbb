"""Light, steady HTTP load from a few clients that keep their connections."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx


@dataclass
class Load:
    """`rate` recommendations per second while the block runs, at most `longest_s`; `answers` keeps every outcome."""

    url: str
    rate: float = 20.0
    clients: int = 10
    longest_s: float = 270.0
    body: dict[str, Any] = field(default_factory=dict)
    prefix: str = "u"
    """Of the user ids; 80 users take turns."""
    answers: list[tuple[float, int | str, dict[str, Any]]] = field(default_factory=list)
    """(Unix seconds, status or error, the body of a 200)."""

    def __enter__(self) -> Self:
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(n,)) for n in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _client(self, number: int) -> None:
        pause, sent, end = self.clients / self.rate, 0, time.monotonic() + self.longest_s
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self._ended.wait(pause) and time.monotonic() < end:
                sent += 1
                try:
                    answer = client.post(
                        "/v1/recommend", json={"user_id": f"{self.prefix}{(sent * 7 + number) % 80}"} | self.body
                    )
                    body = answer.json() if answer.status_code == 200 else {"text": answer.text}
                    self.answers.append((time.time(), answer.status_code, body))
                except httpx.HTTPError as error:
                    self.answers.append((time.time(), repr(error), {}))

    @property
    def outcomes(self) -> Counter[int | str]:
        """How often each status, or error, came back."""
        return Counter(outcome for _, outcome, _ in self.answers)

    @property
    def degraded(self) -> Counter[str]:
        """How often each fallback was used."""
        return Counter(reason for _, _, body in self.answers for reason in body.get("degraded", []))

    def assert_all_answered(self, at_least: int) -> None:
        """Asserts that every request got 200, and that there were enough."""
        print(f"{self.outcomes}, {self.degraded}")  # for debugging
        bad = [answer for answer in self.answers if answer[1] != 200]
        assert not bad, f"first of {len(bad)}: {bad[0]}"
        assert len(self.answers) >= at_least, "the load was lighter than the test needs"
