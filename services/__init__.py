"""The four services (gateway, scheduler, worker, autoscaler) and what they share (catalog, bus)."""
