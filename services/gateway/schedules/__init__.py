"""Schedules: their times, and the jobs that they start."""
