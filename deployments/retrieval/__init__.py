"""How candidates are found: retriever.py holds the retrieval sources of an artifact, kernels.py the compiled loop
over them, vector_index.py the search by vectors. A new source is declared in artifact/sources.py and read in
retriever.py. Knows no asyncio.
"""
