"""The flows and the command line. Start with recommendation.py (the served application) and training.py; each reads
like its diagram. `rayfunnel --help` lists the commands. May import all packages; serving never imports
training.
"""
