"""The slots of a spec: as many jobs as are sent to a worker are computed there at a time."""

import msgspec

from stoker.schemas.catalog import Spec, weights_key
from stoker.services.worker.engines.registry import CAPABILITIES
from tests.conftest import DEMO
from tests.contract.conftest import Connect
from tests.contract.worker.agents import MB, working
from tests.waiting import eventually

ENGINES = {name: CAPABILITIES[name] for name in ("synthetic", "llamacpp")}
SPEC = Spec("default", "llamacpp", f"file://{DEMO / 'chat.gguf'}", options={"n_ctx": 256}, memory_bytes=20 * MB)


async def test_the_engine_has_as_many_slots_as_the_spec_says(connected: Connect) -> None:
    wide = msgspec.structs.replace(SPEC, slots=6)
    async with connected() as bus, working(bus, models={"own": SPEC, "wide": wide}, engines=ENGINES) as worker:
        for model, spec in (("own", SPEC), ("wide", wide)):
            worker.agent.load(model, spec)
        await eventually(lambda: len(worker.beat.vram_models) == 2, 60, "both to be loaded")
        slots = {one.model: one.card.slots for one in worker.beat.models if one.card is not None}
        assert slots == {"own": CAPABILITIES["llamacpp"].slots, "wide": 6}


def test_weights_with_other_slots_are_others() -> None:
    """Their KV caches are."""
    wide, wider = (msgspec.structs.replace(SPEC, slots=slots) for slots in (6, 8))
    assert len({weights_key("m", spec) for spec in (SPEC, wide, wider)}) == 3
