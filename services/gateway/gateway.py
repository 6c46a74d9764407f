"""One gateway process, put together: what every route is given.

It decides nothing itself. `fleet` is what is known of the others, `admission` and `streams_open` refuse what is
too much, `submission` accepts jobs, `streams` has their events, `loading` and `modes` load models, `describing`
notes what they take, `fetching` has what requests name by URLs, `reloading` reads the configuration. What runs
beside requests belongs to `tasks`, and ends with the block of `running`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stoker.schemas.catalog import Model
from stoker.schemas.configuration import ConfigurationState
from stoker.schemas.keys import ApiKey
from stoker.schemas.subjects import ANY
from stoker.services.bus.connection import Bus
from stoker.services.bus.heartbeats import HeartbeatReader
from stoker.services.gateway.describing import Describing
from stoker.services.gateway.edge.access import Access
from stoker.services.gateway.edge.label_selectors import current_selector, selects
from stoker.services.gateway.edge.problems import RETRY_AFTER_S, RequestError
from stoker.services.gateway.edge.sse import StreamLimit
from stoker.services.gateway.fetching import Fetching
from stoker.services.gateway.fleet_view import FleetView
from stoker.services.gateway.jobs.active import ActiveJobs
from stoker.services.gateway.jobs.admission import Admission
from stoker.services.gateway.jobs.loading import Loading
from stoker.services.gateway.jobs.submission import Submission
from stoker.services.gateway.jobs.webhook_urls import WebhookRules
from stoker.services.gateway.limits import Limits
from stoker.services.gateway.modes import Modes
from stoker.services.gateway.reloading import Reloading
from stoker.services.gateway.scheduler_queries import why_not_ready
from stoker.services.gateway.turns import Turns
from stoker.services.gateway.watching.streams import Streams
from stoker.services.process.tasks import TaskOwner
from stoker.services.records.uploads import keep_tidy

CATALOG_NOT_READ = "the catalog has not been read yet"
UPLOADS_AT_ONCE, UPLOADS_AT_ONCE_EACH, UPLOAD_TURN_S = 32, 8, 20.0
"""Files that are being received: each has a few megabytes on its way (services/records/parts.py)."""


class Gateway:
    """`name` is its token in subjects."""

    def __init__(
        self,
        bus: Bus,
        name: str,
        max_streams: int,
        queue_max: int,
        reloading: Reloading | None = None,
        access: Access | None = None,
    ) -> None:
        self.access = access or Access(is_required=False)
        self.limits = Limits(bus, name, self.access.key)
        self.bus = bus
        self.name = name
        self.reloading = reloading
        self.tasks = TaskOwner("gateway")
        self.fleet = FleetView()
        self.streams = Streams(bus, name)
        self.streams_open = StreamLimit(max_streams)
        self.admission = Admission(self.fleet.depths, queue_max, self.fleet.why_disk_full, self.limits.jobs)
        self.submission = Submission(bus, name, self.streams, self.limits.not_made)
        self.loading = Loading(self.submission, self.tasks)
        self.webhook_rules = WebhookRules()
        self.fetching = Fetching()
        self.uploads = Turns(
            "uploads", "too_many_uploads", UPLOADS_AT_ONCE, UPLOADS_AT_ONCE_EACH, UPLOAD_TURN_S
        )
        self.drawing = ActiveJobs(self.streams.attached)
        self.checkpoints: dict[str, str] = {}
        """By key: the model that its A1111 client has chosen."""
        self.describing = Describing(bus, self.fleet, self.tasks)
        self.metrics_of: dict[str, str] = {}
        """Where others expose their metrics, by their names."""

    @property
    def models(self) -> dict[str, Model]:
        """The catalog, as far as the request selects it by labels. Raises RequestError 503 until it has been
        read: what is not there yet is not missing.
        """
        self._check_catalog()
        if not (selector := current_selector.get()):
            return self.fleet.models
        return {name: model for name, model in self.fleet.models.items() if selects(selector, model.labels)}

    @property
    def modes(self) -> Modes:
        """The modes of the catalog. Raises RequestError 503 like `models`."""
        self._check_catalog()
        return self.fleet.modes

    def _check_catalog(self) -> None:
        if not self.fleet.catalog_read.is_set():
            raise RequestError(503, CATALOG_NOT_READ, code="starting", retry_after_s=RETRY_AFTER_S)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Subscribed, and ready for requests, for as long as the block lasts."""
        subjects = self.bus.subjects
        reports = (
            (subjects.every("queue", ANY), self.fleet.on_depth),
            *HeartbeatReader(self.bus, self.fleet.on_heartbeat).subscriptions(),
            (subjects.disk(), self.fleet.on_disk),
            (self.limits.served.subject, self.limits.on_use),
            (subjects.every("described", ANY), self.describing.on_described),
        )
        async with self.bus.listening(*reports), self.streams.running(), self.fetching.running(), self.tasks:
            self.tasks.start(self.fleet.tidy)
            self.tasks.start(self.limits.keep)
            self.tasks.start(keep_tidy, self.bus)
            try:
                with self.bus.endpoints.announcing(self.limits.served):
                    yield
            finally:
                self.submission.close()

    def model_changed(self, name: str, model: Model | None) -> None:
        """A model of the catalog is new, another, or gone."""
        self.fleet.model_changed(name, model)
        if model is None:
            self.loading.forget(name)

    def configuration(self) -> ConfigurationState:
        """The revision in use, and why the files are another: as this gateway found them, or another one
        did."""
        failed, own = self.fleet.failure, self.reloading
        if own is not None and (own.failure is not None or (failed is not None and failed.gateway == own.name)):
            failed = own.failure
        return ConfigurationState(self.fleet.revision.number, self.fleet.revision.at, failed)

    def key_changed(self, key_id: str, key: ApiKey | None) -> None:
        """An API key was made, changed or removed."""
        self.access.changed(key_id, key)
        if key is None or key.revoked_at:
            self.limits.forget(key_id)

    async def why_not_ready(self) -> str:
        """Why the gateway is not ready; "" when it is: NATS, the catalog, a scheduler that answers."""
        if not self.bus.is_connected:
            return "NATS is not connected"
        if not self.fleet.catalog_read.is_set():
            return CATALOG_NOT_READ
        return await why_not_ready(self.bus)
