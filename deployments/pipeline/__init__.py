"""How a micro-batch travels: equal requests share an answer in pipeline.py (`ask`), a batch leaves the queue in
batcher.py, pipeline.py takes it from stage to stage, each called through stage_client.py within its deadline
(time_budget.py) and, when late or failed, replaced in stage_fallbacks.py. overload/ lists every bound. A stage replica
joins batches in call_batcher.py. Asyncio, no Ray, no HTTP; may import store, stages and below.
"""
