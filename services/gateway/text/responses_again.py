"""A response that goes on without a client: followed where it was made, or found again by its id."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from stoker.schemas.job_events import Delta, Queued, Terminal
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.outcomes import completed_or_raise
from stoker.services.gateway.jobs.own_jobs import Waiting
from stoker.services.gateway.text.responses_output import ResponseWriter
from stoker.services.gateway.text.runs import text_of
from stoker.services.gateway.watching.resume import Cursor
from stoker.services.gateway.watching.streams import UnknownJob


async def response_events(gateway: Gateway, job: str, writer: ResponseWriter) -> AsyncGenerator[bytes]:
    """The body of a stream: all that the client does not have, to the end. Closing it cancels nothing."""
    waiting, is_open = Waiting(), False
    yield writer.queued() or waiting.comment()
    try:
        async with aclosing(gateway.streams.watch(job, Cursor())) as items:
            async for item in items:
                match item[0] if item is not None else None:
                    case Queued() as queued:
                        written = waiting.heard(queued)
                    case None:
                        written = waiting.comment()
                    case Delta() as delta:
                        written = b"" if is_open else writer.opening(0)
                        is_open = True
                        written += writer.delta(0, delta)
                    case event if isinstance(event, Terminal):
                        output = text_of(completed_or_raise(event))
                        written = b"" if is_open else writer.opening(0)
                        yield written + writer.ending(0, output) + writer.closing([output])
                        return
                    case _:
                        written = b""
                if written:
                    yield written
    except UnknownJob:
        yield writer.error(RequestError(404, f"the job {job} of this response is no longer known"))
    except RequestError as error:
        yield writer.error(error)
