"""How a builder refuses a configuration: Serve shows the text of its own exceptions alone, of any other the frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray.serve.exceptions import RayServeException

from deployments.errors import ConfigError


class Refused(ConfigError, RayServeException):
    """A ConfigError whose sentence is all that `serve status` and the dashboard show."""


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """Turns a ConfigError in the block into `Refused`."""
    try:
        yield
    except ConfigError as error:
        raise Refused(str(error)) from None
