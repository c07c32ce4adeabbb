"""Every error that a user can get. Each has its HTTP status, and a message with the problem, the value and the remedy.

Errors of requests become RFC 9457 problem documents; configuration errors stop the deployment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class FunnelError(Exception):
    """Base of all; `status` is the HTTP status, `title` the problem's short name (RFC 9457)."""

    status = 500
    title = "Internal error"
    loggable = False
    """True if its message never contains values of a caller, so that it may be logged."""

    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        return {}

    def problem(self) -> dict[str, Any]:
        """The RFC 9457 document."""
        return {"type": "about:blank", "title": self.title, "status": self.status, "detail": str(self)}


class MalformedRequest(FunnelError):
    """A request that is not valid HTTP/1.1 (RFC 9112)."""

    status = 400
    title = "Malformed request"


class Unauthorized(FunnelError):
    """The request does not say who asks, or says it wrongly."""

    status = 401
    title = "Unauthorized"

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(FunnelError):
    """Who asks may not ask this."""

    status = 403
    title = "Forbidden"


class InvalidRequest(FunnelError, ValueError):
    """A request that is not valid. `errors`: (field, problem and remedy)."""

    status = 422
    title = "Invalid request"

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        self.errors = list(errors)
        super().__init__("; ".join(f"{field}: {message}" for field, message in errors))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errors,)

    def problem(self) -> dict[str, Any]:
        return super().problem() | {"errors": [{"field": f, "message": m} for f, m in self.errors]}


class BodyTooLarge(InvalidRequest):
    """The body exceeds the configured limit; refused before it is read."""

    status = 413
    title = "Body too large"

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        super().__init__([("body", f"over the limit of {limit_bytes} bytes; send less, or raise http.max_body_bytes")])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.limit_bytes,)


class UnsupportedEncoding(InvalidRequest):
    """A body with a Content-Encoding that is not read."""

    status = 415
    title = "Unsupported content encoding"

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        InvalidRequest.__init__(self, [("content-encoding", f"{encoding[:60]!r} is not read; send gzip or none")])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.encoding,)


class UnknownItem(InvalidRequest):
    """An item id that is not in the catalogue, in a request that depends on it."""

    status = 404
    title = "Unknown item"

    def __init__(self, field: str, item_id: str) -> None:
        self.field, self.item_id = field, item_id
        InvalidRequest.__init__(self, [(field, f"{item_id!r} is not in the catalogue of the model being served")])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.field, self.item_id)


class NoSuchReport(FunnelError):
    """An Evidently report that does not exist, or is no longer kept."""

    status = 404
    title = "No such report"


class NotWatched(FunnelError):
    """Drift is off in the configuration."""

    status = 404
    title = "Drift is not watched"


class Unavailable(FunnelError):
    """Temporarily not possible; the caller may retry after `retry_after_s` seconds."""

    status = 503
    title = "Unavailable"
    retry_after_s = 1

    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after_s)}


class Overloaded(Unavailable):
    """A bound of the ingress replica is reached; the text names it, the number and the remedy."""

    title = "Overloaded"
    loggable = True


class StoreUnavailable(Unavailable):
    """The store failed or did not answer in time."""

    title = "Store unavailable"
    loggable = True


class DeadlineExceeded(FunnelError):
    """The work arrived after its deadline and was not started."""

    status = 504
    title = "Deadline exceeded"
    loggable = True


class StageFailed(FunnelError):
    """A stage failed; the pipeline uses its fallback. `reason`: one word, for metrics and `degraded`."""

    def __init__(self, stage: str, reason: str, detail: str) -> None:
        self.stage, self.reason, self.detail = stage, reason, detail
        super().__init__(f"{stage}: {reason}: {detail}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.stage, self.reason, self.detail)


class VersionMismatch(FunnelError):
    """A stage received messages made with different models."""

    loggable = True

    def __init__(self, versions: Sequence[str]) -> None:
        self.versions = list(versions)
        super().__init__(f"one batch, several model versions: {', '.join(versions)}; a rollout is under way")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.versions,)


class ConfigError(FunnelError, ValueError):
    """The configuration is not valid. One sentence: the field, its value, the remedy."""

    loggable = True


class ArtifactError(ConfigError):
    """The artifact is missing, incomplete or altered."""


class DataError(FunnelError, ValueError):
    """Training data is not valid: names the file, the column and the expected content."""
