"""How callers reach the funnel. access.py lets a request in; http.py takes HTTP and refuses a body that is too large;
fast_path/ does both for the four operations before http.py sees them. schemas.py checks bodies, operations.py runs
recommend, rank, similar and record_events (event requests some at a time), each within its limit (instrumentation.py),
responses.py writes the answers. Speaks HTTP, alone. May import pipeline and below. Start with operations.py.
"""
