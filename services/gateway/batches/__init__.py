"""Running batches: any gateway takes one that nobody runs, and goes on where the last one stopped.

`owning.py` takes them, `claim.py` is what a gateway may write while one is its own, `running.py` goes through
the states, `line_runs.py` makes each line of a batch jobs with names of their own, and waits for them;
`requests.py` knows the endpoints, `progress.py` and `input_lines.py` are pure.
"""
