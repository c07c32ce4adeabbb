"""The ways to run the ranking model: eager, compiled, TensorRT, in several precisions, and the parity gate that
each must pass before it serves. Start with backends.py.
"""
