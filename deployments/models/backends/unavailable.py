"""The error of a backend that can't run on this machine."""


class BackendUnavailable(Exception):
    """The text is the reason; the scorer then uses a fallback backend."""
