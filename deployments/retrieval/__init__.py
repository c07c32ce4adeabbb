"""How candidates are found. Start with retriever.py, which loads the retrieval sources of an artifact. kernels.py is
the compiled loop over them, vector_index.py the search by vectors, partition.py and shard_kernels.py the sharded form.
A new source: its kind in artifact/sources.py, loaded in retriever.py, listed in kernels.py (`collect_lists`).
May import models and artifact; no asyncio.
"""
