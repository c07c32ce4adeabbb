"""The HTTP path in front of uvicorn: accepts connections (listener.py), answers or refuses the four operations
without uvicorn's and Serve's layers (connection.py). Everything else passes through to uvicorn. May import
api/responses.py, pipeline/overload and below.
"""
