"""Stoker keeps models hot. What a program imports; the command is in stoker.cli."""

from stoker.worker_pool import CustomJob, JobFailed, WorkerPool, get_worker_pool

__all__ = ["CustomJob", "JobFailed", "WorkerPool", "get_worker_pool"]
