"""Everything that training writes into the artifact: one file per model that is fitted, then packaging.py and
drift_reference.py. graphs/training.py calls them. Start with retrieval.py, then ranker.py. May import
graphs.evaluation, graphs.data, graphs.config and deployments.
"""
