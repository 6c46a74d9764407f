"""`python -m stoker.services.worker.runner SOCKET [FAMILY]`: a runner process, started by its agent alone.

It reads frames (messages.py) from the socket whose number is its argument, and ends when that socket closes.
The family of its engines is there for who reads a list of processes.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import uvloop

from stoker.services.process.running import die_with_parent
from stoker.services.process.tasks import TaskOwner
from stoker.services.worker.runner.messages import Ready, ToRunner, messages
from stoker.services.worker.runner.outbox import FrameOutbox
from stoker.services.worker.runner.quiet import quiet_libraries
from stoker.services.worker.runner.runner import Runner

MAX_THREADS = 4096
"""For runs whose engine computes, or waits, in a thread: how many run at a time is for slots to say, and
Python's own bound is six on two cores. A thread is made when one is needed.
"""
NICENESS = 5
"""Engines take what processor time is left over: a full machine must not silence the worker, or cost the
scheduler its lease.
"""


async def serve(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(MAX_THREADS, "engine"))
    for number in (signal.SIGINT, signal.SIGTERM):  # the agent decides when this process ends
        loop.add_signal_handler(number, lambda: None)
    connection = socket.socket(fileno=descriptor)
    reader, writer = await asyncio.open_connection(sock=connection)
    outbox = FrameOutbox(writer, loop)
    async with TaskOwner("runner") as tasks:
        runner = Runner(outbox, tasks)
        outbox.put(Ready())
        with contextlib.suppress(ConnectionError):
            async for message in messages(reader, ToRunner):
                runner.take(message)
        os._exit(0)  # engine threads may still compute, and nobody waits for them


def main() -> None:
    die_with_parent()
    os.nice(NICENESS)
    quiet_libraries()
    uvloop.run(serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
