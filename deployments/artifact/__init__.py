"""The artifact: the folder that training writes (writer.py) and serving reads (reader.py), and the catalogue of its
items. May import messages and errors only.
"""
