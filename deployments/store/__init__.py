"""Where users' events are stored: base.py is the interface, redis.py and memory.py implement it, events.py is the
format. `RedisStore.record` writes an event. May import messages, errors and timeouts only. Start with base.py.
"""
