"""Where it runs."""

from pathlib import Path

ENV_FILE = Path(__file__).with_name("serve.env")
"""The flags that make Ray Serve fast."""
PROFILES = Path(__file__).with_name("profiles")
"""What `python -m graphs kuberay` needs to know of a cluster, by name."""
