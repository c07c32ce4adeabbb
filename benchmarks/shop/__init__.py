"""Data as a shop has it, generated, and the quality of the recommendations on it. Start with data.py: it writes the
folder that a user would bring. catalogue.py and shoppers.py draw it; quality.py trains on it and tunes the baselines.
May import graphs.
"""
