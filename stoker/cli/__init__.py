"""The `stoker` command: one file per group of verbs."""
