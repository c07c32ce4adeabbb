"""What is deployed. A request passes api → pipeline → stages; replicas/ runs these parts on Ray, assembly.py wires
one process. Imports go down only: replicas, assembly, api, telemetry, pipeline, store, stages, retrieval, models,
artifact, messages. Start with pipeline/pipeline.py.
"""
