"""The runner: the child process that holds the engines, and the agent's side of it.

The two speak in frames over a socket pair (`messages.py`). Knows nothing of NATS.
"""
