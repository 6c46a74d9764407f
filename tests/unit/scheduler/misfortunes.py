"""What befalls workers of the simulated world: they die, are paused, hang, are cut off, and come back."""

from collections.abc import Callable
from functools import partial

from stoker.schemas.catalog import Model
from stoker.schemas.workers import Outcome, RunningJob
from stoker.services.scheduler.protocol import events
from tests.unit.scheduler.workers import SimWorker


class Misfortunes:
    """For World: each of these happens now, and is over by itself where it says so."""

    workers: dict[str, SimWorker]
    models: dict[str, Model]
    deaths: dict[str, int]
    now: float

    after: Callable[[float, Callable[[], None]], None]
    feed: Callable[[events.Event], None]
    tell: Callable[[events.Event], None]
    beat_now: Callable[[SimWorker], None]
    _finished: Callable[[SimWorker, RunningJob, Outcome], None]

    def kill(self, name: str, restart_after_s: float | None = None) -> None:
        """kill -9: what it ran is gone; it may come back as a new process."""
        worker = self.workers[name]
        worker.is_alive = False
        for lost in worker.lose_memory():
            self.deaths[lost.job] = self.deaths.get(lost.job, 0) + 1
        if restart_after_s is not None:
            self.after(restart_after_s, partial(self.start_again, name))

    def start_again(self, name: str) -> None:
        worker = self.workers[name]
        worker.start_again(self.now)
        self.beat_now(worker)

    def kill_runner(self, name: str, restart_after_s: float = 0.5) -> None:
        """The runner dies alone: the agent says so for each job, and starts another."""
        worker = self.workers[name]
        if not worker.has_runner or not worker.is_alive:
            return
        worker.has_runner = False
        for lost in worker.lose_memory():
            self.deaths[lost.job] = self.deaths.get(lost.job, 0) + 1
            self._finished(worker, lost, "lost")
        self.beat_now(worker)
        life = worker.life

        def restart() -> None:
            if worker.life == life:
                worker.has_runner = True
                self.beat_now(worker)

        self.after(restart_after_s, restart)

    def kill_runner_of(self, name: str, engine: str, restart_after_s: float = 0.5) -> None:
        """The runner of one engine dies alone: the others of the worker go on."""
        worker = self.workers[name]
        if engine in worker.away or not worker.has_runner or not worker.is_alive:
            return
        worker.away.add(engine)
        for lost in worker.lose_memory(engine):
            self.deaths[lost.job] = self.deaths.get(lost.job, 0) + 1
            self._finished(worker, lost, "lost")
        self.beat_now(worker)
        life = worker.life

        def restart() -> None:
            if worker.life == life:
                worker.away.discard(engine)
                self.beat_now(worker)

        self.after(restart_after_s, restart)

    def pause(self, name: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        worker = self.workers[name]
        worker.is_paused = True

        def resume() -> None:
            worker.is_paused = False
            self.beat_now(worker)

        self.after(seconds, resume)

    def hang(self, name: str, seconds: float) -> None:
        """Its driver does not return: the worker speaks, and nothing that it runs goes on."""
        worker = self.workers[name]
        worker.is_hung = True

        def go_on() -> None:
            worker.is_hung = False

        self.after(seconds, go_on)

    def cut_off(self, name: str, seconds: float) -> None:
        """Its connection breaks, and stands again later; what it sends meanwhile waits."""
        worker = self.workers[name]
        worker.is_cut_off = True

        def heal() -> None:
            worker.is_cut_off = False
            self.beat_now(worker)

        self.after(seconds, heal)

    def say_goodbye(self, name: str, restart_after_s: float | None = None) -> None:
        """It stops, as in a rolling update: what it runs it drops, and says so."""
        worker = self.workers[name]
        if not worker.listens or worker.is_paused:
            return
        self.tell(events.HeartbeatSeen(worker.heartbeat(is_leaving=True)))
        worker.is_alive = False
        worker.running.clear()
        if restart_after_s is not None:
            self.after(restart_after_s, partial(self.start_again, name))

    def forget_model(self, name: str, seconds: float) -> None:
        """The model leaves the catalog, and is there again later."""
        model = self.models.pop(name, None)
        if model is None:
            return
        self.feed(events.ModelChanged(name, None))

        def back() -> None:
            self.models[name] = model
            self.feed(events.ModelChanged(name, model))

        self.after(seconds, back)
