"""The artifact: the folder that training writes (writer.py) and serving reads (reader.py; start there). catalogue.py is
its items, with arrow_types.py, columns.py and filters.py; sources.py is the schema of its retrieval sources. May import
messages and errors alone.
"""
