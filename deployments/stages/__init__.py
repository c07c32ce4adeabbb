"""What is computed: profile, candidates, scoring, ranking, and similar. A stage is a plain synchronous class that
keeps contract.py; it knows no Ray, no asyncio, no deadline. fallbacks.py replaces a stage that fails. May import
retrieval, models and artifact.
"""
