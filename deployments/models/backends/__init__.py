"""The ways to run the ranking model, in several precisions. selection.py chooses one: eager, compiled or tensorrt.
parity_gate.py decides which combinations of backend and precision may serve. May import artifact. Start with
selection.py.
"""
