"""What each NATS user may do: the one table from which `users.conf` is written. Pure.

Everything that is not listed is denied. Streams and buckets are made by people (`stoker install-streams`); a
service may ask JetStream for no more than it uses, hears replies in an inbox of its own, and answers what it
was asked (`allow_responses`). A worker that was invited has a user of its own, which speaks and hears under its
own name alone; those that the autoscaler launches share one. docs/security.md says what that means.
"""

from dataclasses import dataclass, field

from stoker.schemas import subjects as names
from stoker.schemas.subjects import of_bucket, to_token

INBOXES = "_INBOX"
ANY_WORKER = "*"
CLIENT = "client"
"""The role of programs that ask by message."""
DISCOVERY = ("$SRV.PING.>", "$SRV.PING", "$SRV.INFO.>", "$SRV.INFO", "$SRV.STATS.>", "$SRV.STATS")
GATEWAY_BUCKETS = (names.CATALOG_BUCKET, names.REPLICAS_BUCKET, names.KEYS_BUCKET, names.SECRETS_BUCKET)
SCHEDULER_BUCKETS = (names.CATALOG_BUCKET, names.REPLICAS_BUCKET, names.SECRETS_BUCKET)
AUTOSCALER_BUCKETS = (names.CATALOG_BUCKET, names.REPLICAS_BUCKET)
REPLIES = '{ max: 2, expires: "5m" }'
"""To what it was asked, a service may answer this often and this long."""


def worker_role(name: str) -> str:
    """The role of one worker."""
    return f"worker.{to_token(name)}"


def inbox_of(role: str) -> str:
    """What the subjects of a role's inboxes begin with; people have the common one."""
    return f"{INBOXES}.{role}" if role else INBOXES


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects that may be published and subscribed to. asks: JetStream's API, without its prefix.

    is_asked: others ask it, also whether it is there, and it may answer them.
    """

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    asks: tuple[str, ...] = field(default=())
    is_asked: bool = True

    def published(self) -> tuple[str, ...]:
        """Everything that may be published."""
        return (*self.publish, *(f"$JS.API.{ask}" for ask in self.asks))


def _watches(*buckets: str) -> tuple[str, ...]:
    """To read buckets."""
    kinds = ("STREAM.INFO.{}", "DIRECT.GET.{}", "DIRECT.GET.{}.>")
    return tuple(kind.format(of_bucket(bucket)) for bucket in buckets for kind in kinds)


def _changes(*buckets: str) -> tuple[str, ...]:
    """To hear that they have changed."""
    return tuple(f"$KV.{bucket}.>" for bucket in buckets)


def _reads(*buckets: str) -> tuple[str, ...]:
    """Requests to read single values of them."""
    return tuple(
        f"{ask}.{of_bucket(bucket)}{rest}"
        for bucket in buckets
        for ask, rest in (("STREAM.INFO", ""), ("DIRECT.GET", ".>"))
    )


def _gateway(prefix: str) -> Permissions:
    return Permissions(
        publish=(
            f"{prefix}.jobs.*",
            f"{prefix}.cancel.*",
            f"{prefix}.scheduler.*",
            *(f"{prefix}.worker.*.{verb}" for verb in ("cancel", "replay", "load", "unload")),
            f"{prefix}.blob.*.*",
            *(f"{prefix}.{subject}" for subject in ("use", "solicit.*", "pace.*", "quarantine.webhook")),
            f"{prefix}.events.quarantined.*",
            *(f"{prefix}.events.{kind}.*" for kind in ("operated", "configured", "not_configured")),
            f"$KV.{names.CATALOG_BUCKET}.>",
            f"$KV.{names.CONVERSATIONS_BUCKET}.>",
            f"{prefix}.file.*.*",
            *_changes(names.FILES_BUCKET, names.BATCHES_BUCKET, names.SCHEDULES_BUCKET, names.UPLOADS_BUCKET),
            f"$JS.ACK.{names.WEBHOOKS_STREAM}.>",
            f"{inbox_of(CLIENT)}.>",  # answers to requests by message, which may take long
        ),
        subscribe=(
            f"{prefix}.requests",
            f"{prefix}.calls",
            *(f"{prefix}.{word}" for word in ("out.*.*", "ended.*", "queue.*", "heartbeat.*", "change.*")),
            *(f"{prefix}.{word}" for word in ("described.*", "events.*.*", "sent", "disk", "use")),
            *_changes(*GATEWAY_BUCKETS, names.BATCHES_BUCKET, names.SCHEDULES_BUCKET),
        ),
        asks=(
            *_watches(
                *GATEWAY_BUCKETS,
                names.FILES_BUCKET,
                names.BATCHES_BUCKET,
                names.SCHEDULES_BUCKET,
                names.USAGE_BUCKET,
                names.UPLOADS_BUCKET,
            ),
            f"DIRECT.GET.{names.FILES_STREAM}.>",
            *_reads(names.CONVERSATIONS_BUCKET),
            *(
                f"STREAM.INFO.{stream}"
                for stream in (names.JOBS_STREAM, names.RESULTS_STREAM, names.BLOBS_STREAM, names.EVENTS_STREAM)
            ),
            f"DIRECT.GET.{names.RESULTS_STREAM}.>",
            f"STREAM.MSG.GET.{names.RESULTS_STREAM}",
            *(f"CONSUMER.CREATE.{stream}" for stream in (names.EVENTS_STREAM, names.HISTORY_STREAM)),
            *(
                f"CONSUMER.{verb}.{stream}.>"
                for stream in (names.EVENTS_STREAM, names.HISTORY_STREAM)
                for verb in ("CREATE", "INFO", "DELETE")
            ),
            f"STREAM.INFO.{names.HISTORY_STREAM}",
            f"DIRECT.GET.{names.RETRIES_STREAM}.>",
            *(f"STREAM.{verb}.{names.QUARANTINE_STREAM}" for verb in ("INFO", "MSG.GET")),
            f"STREAM.INFO.{names.WEBHOOKS_STREAM}",
            *(f"CONSUMER.{verb}.{names.WEBHOOKS_STREAM}.>" for verb in ("CREATE", "INFO", "MSG.NEXT")),
            f"DIRECT.GET.{names.BLOBS_STREAM}.>",
            *(f"{ask}.OBJ_stoker_blobs" for ask in ("STREAM.INFO", "STREAM.MSG.GET")),  # of the version before
            "CONSUMER.CREATE.OBJ_stoker_blobs.>",
        ),
    )


def _scheduler(prefix: str) -> Permissions:
    return Permissions(
        publish=(
            *(
                f"{prefix}.{subject}"
                for subject in ("worker.*.*", "solicit", "solicit.*", "out.*.*", "verdict.*.*")
            ),
            *(f"{prefix}.{subject}" for subject in ("queue.*", "events.*.*", "webhook.*", "quarantine.job")),
            *(f"{prefix}.{subject}" for subject in ("history.*", "retry.*")),
            f"$KV.{names.LEASES_BUCKET}.scheduler",
            f"$KV.{names.USAGE_BUCKET}.>",
            f"$KV.{names.CATALOG_BUCKET}.possible.*",
            f"$JS.ACK.{names.JOBS_STREAM}.>",
        ),
        subscribe=(
            *(
                f"{prefix}.{subject}"
                for subject in ("heartbeat.*", "change.*", "finished.*", "cancel.*", "scheduler.*")
            ),
            *_changes(*SCHEDULER_BUCKETS),
        ),
        asks=(
            *_watches(*SCHEDULER_BUCKETS),
            *_reads(names.LEASES_BUCKET),
            *_reads(names.USAGE_BUCKET),
            f"STREAM.INFO.{names.JOBS_STREAM}",
            f"STREAM.MSG.GET.{names.JOBS_STREAM}",
            f"CONSUMER.*.{names.JOBS_STREAM}",
            f"CONSUMER.*.{names.JOBS_STREAM}.>",
            f"CONSUMER.MSG.NEXT.{names.JOBS_STREAM}.>",
            f"CONSUMER.DURABLE.CREATE.{names.JOBS_STREAM}.>",
            f"STREAM.INFO.{names.RESULTS_STREAM}",
            f"STREAM.UPDATE.{names.RESULTS_STREAM}",  # to admit its own verdicts (streams.py)
            f"STREAM.MSG.GET.{names.RESULTS_STREAM}",
            f"DIRECT.GET.{names.RESULTS_STREAM}.>",
            *(f"CONSUMER.{verb}.{names.RESULTS_STREAM}.>" for verb in ("CREATE", "MSG.NEXT", "DELETE", "INFO")),
            f"STREAM.INFO.{names.WEBHOOKS_STREAM}",
        ),
    )


def _autoscaler(prefix: str) -> Permissions:
    return Permissions(
        publish=(
            f"{prefix}.events.*.*",
            f"{prefix}.solicit.*",
            f"$KV.{names.REPLICAS_BUCKET}.>",
            f"$KV.{names.LEASES_BUCKET}.autoscaler",
        ),
        subscribe=(
            f"{prefix}.heartbeat.*",
            f"{prefix}.change.*",
            f"{prefix}.queue.*",
            *_changes(*AUTOSCALER_BUCKETS),
        ),
        asks=(*_watches(*AUTOSCALER_BUCKETS), *_reads(names.LEASES_BUCKET)),
    )


def of_worker(token: str, prefix: str = "stoker") -> Permissions:
    """One worker, by the token of its name; ANY_WORKER: whichever name it has."""
    return Permissions(
        publish=(
            *(f"{prefix}.{subject}.{token}" for subject in ("heartbeat", "change", "finished", "described")),
            *(f"{prefix}.{subject}" for subject in ("out.*.*", f"result.{names.ANY_GATEWAY}.*", "blob.*.*")),
            f"{prefix}.sent",
            f"{prefix}.calls",
            f"{prefix}.scheduler.recorded",
        ),
        subscribe=(
            f"{prefix}.worker.{token}.*",
            f"{prefix}.heartbeat.{token}",
            f"{prefix}.solicit",
            f"{prefix}.solicit.{token}",
            f"{prefix}.pace.*",
            *_changes(names.CATALOG_BUCKET),
        ),
        asks=(
            *_watches(names.CATALOG_BUCKET),
            *(f"DIRECT.GET.{stream}.>" for stream in (names.BLOBS_STREAM, names.FILES_STREAM)),
        ),
    )


def _client(prefix: str) -> Permissions:
    return Permissions(publish=(f"{prefix}.requests",), subscribe=(), is_asked=False)


def services(prefix: str = "stoker") -> dict[str, Permissions]:
    """The users with passwords, by name; `worker` is that of launched workers, `client` asks by message."""
    return {
        "gateway": _gateway(prefix),
        "scheduler": _scheduler(prefix),
        "autoscaler": _autoscaler(prefix),
        "worker": of_worker(ANY_WORKER, prefix),
        CLIENT: _client(prefix),
    }


# As nats-server reads them ------------------------------------------------------------------------

INVITED = "    # Workers that were invited (`stoker workers invite`), each with a user of its own:\n"
_HEAD = """\
# Written by `stoker users` from services/bus/permissions.py; `stoker workers invite` adds workers to it. What
# is not allowed here is denied. Passwords come from the environment.
authorization {
  users = [
"""
_TAIL = """\
    { user: operator, password: $OPERATOR_PASSWORD }
  ]
}
"""


def users_conf(prefix: str = "stoker") -> str:
    """The file of users."""
    written = [
        _entry(f"user: {name}, password: ${name.upper()}_PASSWORD", role, permissions)
        for name, permissions in services(prefix).items()
        for role in [f"worker.{ANY_WORKER}" if name == "worker" else name]
    ]
    return _HEAD + "".join(written) + INVITED + _TAIL


def with_worker(text: str, name: str, public_key: str, prefix: str = "stoker") -> str:
    """The file of users with one worker more. Raises ValueError where that cannot be."""
    if INVITED not in text:
        raise ValueError("it is not a file of users of this version; `stoker users` writes one")
    if _mark(name) in text:
        raise ValueError(f"worker {name!r} is invited already; `stoker workers revoke {name}` takes that back")
    entry = _mark(name) + _entry(f"nkey: {public_key}", worker_role(name), of_worker(to_token(name), prefix))
    return text.replace(INVITED, INVITED + entry)


def without_worker(text: str, name: str) -> str:
    """The file of users with one worker less. Raises ValueError where it is not invited."""
    before, mark, after = text.partition(_mark(name))
    if not mark:
        raise ValueError(f"no worker {name!r} is invited there")
    return before + after.partition(_END)[2]


_END = "\n    }\n"


def _mark(name: str) -> str:
    return f"    # worker {to_token(name)}\n"


def _entry(who: str, role: str, permissions: Permissions) -> str:
    """One user. An entry ends with the first `_END`."""
    heard = (*permissions.subscribe, f"{inbox_of(role)}.>", *(DISCOVERY if permissions.is_asked else ()))
    answers = f"        allow_responses: {REPLIES}\n" if permissions.is_asked else ""
    return (
        f"    {{\n      {who}\n      permissions: {{\n"
        f"        publish: [\n{_listed(permissions.published())}        ]\n"
        f"        subscribe: [\n{_listed(heard)}        ]\n"
        f"{answers}      }}{_END}"
    )


def _listed(subjects: tuple[str, ...]) -> str:
    return "".join(f'          "{subject}"\n' for subject in subjects)
