"""Several models at once, for calls that are given more than one: all of them or none.

Room is made for all before the first is loaded, in one step of the cache; who waits for that holds nothing. So
no two calls can each hold what the other waits for, and a call whose models fit here gets them as soon as those
that are in use are let go.
"""

from collections.abc import Callable, Sequence

from stoker.schemas.catalog import Spec
from stoker.services.process.tasks import limit
from stoker.services.worker.models.asking import LoadError
from stoker.services.worker.models.cache import DoesNotFit, NoRoomNow
from stoker.services.worker.models.loader import Loader
from stoker.services.worker.models.under_way import Release


async def hold_together(
    loader: Loader,
    models: Sequence[tuple[str, Spec]],
    unneeded: tuple[str, ...],
    hold: Callable[[Release], bool],
    limit_s: float,
) -> None:
    """Return when all of the models are in device memory together, and held there; or when nobody wants them.

    hold: takes over what lets go of them, which does nothing when it is called again; False where nobody wants
    them any more, and it was let go at once. Raises LoadError, WeightsError, LimitExceeded.
    """
    with limit("bringing its models into memory together", limit_s):
        found = [await loader.wanted(model, spec) for model, spec in models]
        wanted = list({one.key: one for one in found}.values())  # models that share weights need them once
        while True:
            loader.room.clear()
            try:
                release = loader.reserve(models, wanted, unneeded)
            except DoesNotFit as error:
                raise LoadError(str(error)) from None
            except NoRoomNow:
                await loader.room.wait()
                continue
            if not hold(release):
                return
            for one in wanted:
                await loader.ended(one.key)
            if all(loader.is_hot(model, spec) for model, spec in models):
                return
            release()  # a runner has died meanwhile
