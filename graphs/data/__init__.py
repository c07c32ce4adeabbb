"""Training data: what users bring is read, checked and split here. Start with dataset.py. May import deployments, not
the models that are fitted."""
