"""The gateway: HTTP and server-sent events in front.

`edge/` is HTTP (`routing.py` the table of routes, `exchange.py` one request), `routes/` what can be asked,
`jobs/` from a request to a job and back, `watching/` events on their way to clients, `fleet_view.py` what is
known of workers and queues, `scheduler_queries.py` what the scheduler is asked. `gateway.py` puts them
together.
"""

from importlib import import_module

from stoker.services import without

with without("httpx._main"):  # a command line, with click, rich and pygments
    import_module("httpx")
