"""Log lines and traces: ecs.py gives a line its ECS fields, context.py the ids of its request or batch, request_log.py
writes one line per request, setup.py installs all of it in a process. Imports nothing else of the project. Start with
ecs.py.
"""
