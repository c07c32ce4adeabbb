"""What a backend raises where it can't run."""


class BackendUnavailable(Exception):
    """The text is the reason; another backend stands in."""
