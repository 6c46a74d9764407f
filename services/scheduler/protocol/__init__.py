"""What goes into the scheduler's core (events), what comes out (commands), and how jobs end without a worker.
Pure.
"""
