"""The HTTP path in front of Serve: accepts connections (listener.py), makes uvicorn's protocol strict and chooses each
request's id (protocol.py), answers or refuses the four operations without uvicorn's and Serve's layers (connection.py;
start there) for the targets it knows (routes.py). install.py leaves all to uvicorn if uvicorn is not as tested. May
import api/access.py, api/responses.py and what api may.
"""
