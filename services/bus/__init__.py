"""Transport: one NATS connection, its streams and buckets, leases, service discovery.

May touch: NATS. Every error of NATS and JetStream is given a name of ours here, once. Knows no job, no model.
"""
