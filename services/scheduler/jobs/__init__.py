"""The jobs that the scheduler holds: their states, their queues, their deadlines. Pure.

Called by the core and by placing. One function, `Jobs.move`, changes the state of a job.
"""
