"""The stages: profile, candidates, scoring, ranking (with business_rules.py) and similar. A stage is a plain
synchronous class that keeps the contract in contract.py: start there. fallbacks.py computes the result of a late or
failed stage; pipeline/stage_fallbacks.py calls it. No Ray, no asyncio, no deadlines. May import retrieval,
models and artifact.
"""
