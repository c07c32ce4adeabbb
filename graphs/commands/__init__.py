"""The commands that are no flow, one file each: serve, evaluate, package, drift_reference, kuberay, gpu_plan (with
gpu_footprint), simulate, docs.
`graphs/command_line` has their options and calls them: start there. May import all of graphs.
"""
