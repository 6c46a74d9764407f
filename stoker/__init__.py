"""Stoker: event-driven model serving over NATS. The `stoker` command is in `stoker.cli`."""
