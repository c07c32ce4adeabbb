"""The models: architectures in serving (fused_dcn_v2.py, user_tower.py; dcn_v2.py as trained), their features
(features/, start with ranking_features.py), the ways to run them and the parity gate (backends/, start with
selection.py). May import artifact; no asyncio, no Ray.
"""
