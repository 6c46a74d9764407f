"""Ways to start workers: one file each, chosen by a resource profile's `launcher`."""
