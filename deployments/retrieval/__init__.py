"""How candidates are found. Start with retriever.py, which loads the retrieval sources of an artifact. kernels.py is
the compiled loop over them, vector_index.py the search by vectors, partition.py and shard_kernels.py the sharded form.
A new source: in the list SOURCES of graphs/fit/retrieval.py; a new kind also in artifact/sources.py, loaded in
retriever.py, and in kernels.py (`collect_lists`).
May import models and artifact; no asyncio.
"""
