"""The NATS plumbing that the services share: connecting, streams, leases, discovery, logs, metrics."""
