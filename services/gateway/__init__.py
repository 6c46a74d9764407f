"""The gateway: HTTP and server-sent events in front.

`edge/` is HTTP, `routes/` what can be asked, `jobs/` from a request to a job and back, `watching/` events on
their way to clients, `fleet_view.py` what is known of workers and queues.
"""
