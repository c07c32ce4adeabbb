"""The features of the models, computed by the same code in training and serving. May import artifact. schema.py is the
one description of them, transforms.py applies it to raw columns (arrow_columns.py: of Arrow tables), ranker_inputs.py
is the order of the ranking model's inputs. Start with ranking_features.py; feature_kernels.py is its compiled inner
loop, user_features.py looks up the users' own features.
"""
