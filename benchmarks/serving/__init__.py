"""Servers under load: ours, its peers (peers/), and the limit without a server. Start with speed.py."""
