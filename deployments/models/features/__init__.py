"""The features of the ranking model, computed the same way in training and serving. Start with ranking_features.py."""
