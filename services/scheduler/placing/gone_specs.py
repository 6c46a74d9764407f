"""Specs that the catalog no longer has, but that replicas launched for them still serve. Pure.

The autoscaler keeps such a replica until those of today's specs hold what is asked for; until then jobs go to
it. A scheduler that starts later does not know the spec, and sends it nothing.
"""

import msgspec

from stoker.schemas.catalog import Model
from stoker.services.scheduler.fleet.workers import Fleet


class GoneSpecs:
    """Looks at the fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._catalog: dict[str, Model] = {}
        """Models that have such specs, as the catalog has them."""

    def added(self, model: Model, before: Model | None) -> Model:
        """A model of the catalog, with the specs of `before` that replicas serve and it has no more."""
        names = {spec.name for spec in model.specs}
        gone = [spec for spec in (before.specs if before is not None else ()) if spec.name not in names]
        serving = self._serving(model.name)
        still = tuple(spec for spec in gone if spec.launcher and spec.name in serving)
        if not still:
            self._catalog.pop(model.name, None)
            return model
        self._catalog[model.name] = model
        return msgspec.structs.replace(model, specs=(*model.specs, *still))

    def forget(self, model: str) -> None:
        """The model itself is gone from the catalog."""
        self._catalog.pop(model, None)

    def to_set_anew(self) -> list[Model]:
        """Models of the catalog of which no replica of such a spec is left."""
        return [
            one
            for one in self._catalog.values()
            if self._serving(one.name) <= {spec.name for spec in one.specs}
        ]

    def _serving(self, model: str) -> set[str]:
        """Specs of the model that are in some worker's device memory."""
        hot = (worker.hot(model) for worker in self._fleet.replicas(model))
        return {resident.spec for resident in hot if resident is not None}
