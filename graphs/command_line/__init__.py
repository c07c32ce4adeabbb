"""What the command line takes: a file per group of commands, with their options and examples. Start with options.py.
Each command imports its own flow when it runs: `--help` loads no model, and serving never loads training. May import
all of graphs except __main__.
"""
