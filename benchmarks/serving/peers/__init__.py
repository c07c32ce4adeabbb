"""The servers that rayfunnel is compared with, each as its documentation advises, around the same recommender."""
