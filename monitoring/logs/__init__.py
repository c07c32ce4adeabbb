"""JSON lines in the Elastic Common Schema (ecs.py), a line per request (request_log.py), spans (tracing.py)."""
