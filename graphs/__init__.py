"""What runs: one file per flow, each reads like its diagram, and the command line. Start with recommendation.py
(the served application) and training.py; `python -m graphs --help` lists the commands. May import everything;
serving never imports training.
"""
