"""The autoscaler as a machine: `handle(event, now) -> [command]`.

It observes: how many replicas of each spec are ready or loading, and how many the demand asks for. What it
finds is recorded in the bucket `stoker_replicas` whenever it changes. Launching comes with the launchers.

Level-triggered: a record depends on what is known now, never on having seen each event.
"""

import math
from dataclasses import dataclass, field

from schemas.catalog import Model
from schemas.fleet import ModelReplicas, QueueDepth, SpecReplicas
from schemas.workers import Heartbeat

SILENT_S = 6.0
"""A worker that was not heard for this long is not counted."""
TARGET_REQUESTS = 100
"""Requests that one replica is meant to hold, unless its spec says otherwise."""


@dataclass(frozen=True, slots=True)
class HeartbeatSeen:
    heartbeat: Heartbeat


@dataclass(frozen=True, slots=True)
class DepthSeen:
    depth: QueueDepth


@dataclass(frozen=True, slots=True)
class ModelChanged:
    name: str
    model: Model | None


@dataclass(frozen=True, slots=True)
class Ticked:
    pass


Event = HeartbeatSeen | DepthSeen | ModelChanged | Ticked


@dataclass(frozen=True, slots=True)
class RecordReplicas:
    """Write this to the bucket."""

    replicas: ModelReplicas


@dataclass(frozen=True, slots=True)
class ForgetModel:
    name: str


Command = RecordReplicas | ForgetModel


@dataclass(slots=True)
class Autoscaler:
    """What is known, and what was recorded last."""

    models: dict[str, Model] = field(default_factory=dict)
    depths: dict[str, QueueDepth] = field(default_factory=dict)
    workers: dict[str, tuple[Heartbeat, float]] = field(default_factory=dict)
    recorded: dict[str, tuple[SpecReplicas, ...]] = field(default_factory=dict)

    def handle(self, event: Event, now: float) -> list[Command]:
        match event:
            case HeartbeatSeen(heartbeat):
                if heartbeat.is_leaving:
                    self.workers.pop(heartbeat.worker, None)
                else:
                    self.workers[heartbeat.worker] = (heartbeat, now)
                return []
            case DepthSeen(depth):
                self.depths[depth.model] = depth
                return []
            case ModelChanged():
                return self._model_changed(event)
            case Ticked():
                return self._record(now)

    def _model_changed(self, event: ModelChanged) -> list[Command]:
        if event.model is not None:
            self.models[event.name] = event.model
            return []
        self.models.pop(event.name, None)
        was_recorded = self.recorded.pop(event.name, None) is not None
        return [ForgetModel(event.name)] if was_recorded else []

    def _record(self, now: float) -> list[Command]:
        self.workers = {
            name: (beat, seen_at) for name, (beat, seen_at) in self.workers.items() if now - seen_at <= SILENT_S
        }
        commands: list[Command] = []
        for name, model in self.models.items():
            specs = self.observe(model)
            if self.recorded.get(name) != specs:
                self.recorded[name] = specs
                commands.append(RecordReplicas(ModelReplicas(name, specs, now)))
        return commands

    def observe(self, model: Model) -> tuple[SpecReplicas, ...]:
        """Replicas of each spec, and how many its load asks for."""
        depth = self.depths.get(model.name)
        demand = depth.queued + depth.running if depth is not None else 0
        residents = [
            resident
            for beat, _ in self.workers.values()
            for resident in beat.models
            if resident.model == model.name
        ]
        return tuple(
            SpecReplicas(
                spec=spec.name,
                desired=math.ceil(demand / TARGET_REQUESTS),
                ready=sum(r.spec == spec.name and r.tier == "hot" for r in residents),
                loading=sum(r.spec == spec.name and r.tier == "loading" for r in residents),
            )
            for spec in model.specs
        )
