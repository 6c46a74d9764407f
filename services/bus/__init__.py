"""Transport: one NATS connection, its streams and buckets, leases, service discovery.

May touch: NATS. Every error of NATS and JetStream is given a name of ours here, once. Knows no job, no model.
"""

from importlib import import_module

from stoker.services import without

with without("aiohttp"):
    import_module("nats.aio.transport")
