"""How callers reach the funnel: bodies are checked (schemas.py), operations run (operations.py), responses are
written (responses.py), over HTTP (http.py, and fast_path/ before it). The only folder that speaks HTTP. Start with
operations.py.
"""
