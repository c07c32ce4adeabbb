"""How a micro-batch travels: queued (batcher.py), then stage by stage within its deadline (pipeline.py), each stage
called through stage_client.py and replaced by its fallback when late. Asyncio, no Ray, no HTTP. overload/ holds
every bound. A stage replica joins batches in request_coalescer.py.
"""
