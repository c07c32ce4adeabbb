"""How much of a GPU each stage's replica takes, and how many fit on a node. Standard library alone."""
