"""What this process answers, and how often it has: what `nats micro info` and `nats micro stats` show.

Who answers counts, with plain numbers, in the handler that hears the message. An endpoint is announced for as
long as its subject is listened to: a scheduler that waits for the lease announces none.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns

from nats.aio.msg import Msg

from stoker.schemas.channels import ENDPOINTS, Channel
from stoker.schemas.subjects import to_token
from stoker.services.bus.quick_client import Handler

MAX_ERROR_CHARS = 200
UNREADABLE = "the message cannot be read"


class Served:
    """One endpoint of this process. error: what was last wrong. busy_ns: from hearing questions to answers."""

    __slots__ = ("busy_ns", "channel", "error", "errors", "requests", "subject")

    def __init__(self, channel: Channel, subject: str) -> None:
        self.channel = channel
        self.subject = subject
        self.requests = 0
        self.errors = 0
        self.error = ""
        self.busy_ns = 0

    def done(self, began_ns: int, error: str = "") -> None:
        """A question that was heard at `began_ns` (perf_counter_ns) is answered. error: "" = it went well."""
        self.requests += 1
        self.busy_ns += perf_counter_ns() - began_ns
        if error:
            self.errors += 1
            self.error = error[:MAX_ERROR_CHARS]

    def counting(self, handler: Callable[[Msg], str]) -> Handler:
        """A handler that answers at once, counted; it gives what was wrong, "" where nothing was."""

        def take(message: Msg) -> None:
            began_ns = perf_counter_ns()
            try:
                error = handler(message)
            except Exception as failure:
                self.done(began_ns, type(failure).__name__)
                raise
            self.done(began_ns, error)

        return take


class Endpoints:
    """Those of this process. The counts of one go on where it is announced again."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._known: dict[str, Served] = {}
        self.announced: list[Served] = []

    def of(self, name: str, **parameters: str) -> Served:
        """The endpoint of a channel (schemas/channels.py); `*` stands for a parameter that is not given."""
        if name not in self._known:
            channel = ENDPOINTS[name]
            subject = channel.address(self._prefix)
            for one in channel.parameters():
                token = to_token(parameters[one]) if one in parameters else "*"
                subject = subject.replace(f"{{{one}}}", token)
            self._known[name] = Served(channel, subject)
        return self._known[name]

    @contextmanager
    def announcing(self, *served: Served) -> Iterator[None]:
        """They are listened to while the block lasts."""
        self.announced += served
        try:
            yield
        finally:
            for one in served:
                self.announced.remove(one)
