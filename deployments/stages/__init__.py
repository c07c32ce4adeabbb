"""The stages: profile, candidates, scoring, ranking, and similar. A stage is a plain synchronous class that keeps the
contract in contract.py: start there. fallbacks.py computes the result of a late or failed stage; pipeline/pipeline.py
calls it (`_fall_back`). No Ray, no asyncio, no deadlines. May import retrieval, models and artifact.
"""
