"""Where users' events are kept: base.py is the contract, redis.py and memory.py keep it. An event is written by
`RedisStore.record`. May import messages and errors only.
"""
