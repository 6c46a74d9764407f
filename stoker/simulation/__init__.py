"""What would happen: the production cores in virtual time, on workers, models and requests of a scenario."""
