"""Servers under load: ours, the limit without a server, and peers/."""
