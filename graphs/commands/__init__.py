"""The command line, one file per command: serve, kuberay, gpu_plan, simulate, package, drift_reference.
`graphs/__main__.py` parses the arguments and calls them. May import all of graphs.
"""
