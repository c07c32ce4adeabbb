"""Errors of the application builders. Serve shows the text of its own exceptions, and the frames of others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray.serve.exceptions import RayServeException

from deployments.errors import ConfigError


class Refused(ConfigError, RayServeException):
    """A ConfigError that `serve status` and the dashboard show as one sentence."""


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """Turns a ConfigError in the block into `Refused`."""
    try:
        yield
    except ConfigError as error:
        raise Refused(str(error)) from None
