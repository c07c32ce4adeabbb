"""Model architectures, as they are served (dcn_v2.py, user_tower.py), their features (features/) and the ways to
run them (backends/). Knows no asyncio, no Ray. May import artifact.
"""
