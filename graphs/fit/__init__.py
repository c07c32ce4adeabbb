"""How each model of the funnel is fitted; graphs/training.py puts them together."""
