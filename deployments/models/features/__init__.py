"""The features of the ranking model, computed by the same code in training and serving. May import artifact. Start with
ranking_features.py; feature_kernels.py is its compiled inner loop, user_features.py looks up the users' own features.
"""
