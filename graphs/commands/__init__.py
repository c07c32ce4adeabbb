"""The commands that are no flow, one file each: serve, evaluate, package, drift_reference, kuberay, gpu_plan (with
gpu_footprint), simulate, docs.
`graphs/__main__.py` parses the arguments and calls them: start there. May import all of graphs.
"""
