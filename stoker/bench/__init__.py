"""Load tests of a running system: what to ask when, asking it, and a report with plots."""
