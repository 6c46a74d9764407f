"""Workers in the order of how much they have to do: the least burdened is found at O(1). Pure."""

from collections.abc import Iterator
from typing import Generic, TypeVar

W = TypeVar("W")


class ByBurden(Generic[W]):
    """Some workers, such as the replicas of one model, by the jobs that they have and that are meant for
    them.
    """

    def __init__(self) -> None:
        self._by_burden: list[dict[str, W]] = [{}]
        self._burden_of: dict[str, int] = {}
        self._lowest = 0

    def __len__(self) -> int:
        return len(self._burden_of)

    def __contains__(self, name: str) -> bool:
        return name in self._burden_of

    def put(self, name: str, worker: W, burden: int) -> None:
        """Enter a worker, or change its burden."""
        if self._burden_of.get(name) == burden:
            return
        self.drop(name)
        while len(self._by_burden) <= burden:
            self._by_burden.append({})
        self._by_burden[burden][name] = worker
        self._burden_of[name] = burden
        self._lowest = min(self._lowest, burden)

    def drop(self, name: str) -> None:
        burden = self._burden_of.pop(name, None)
        if burden is not None:
            del self._by_burden[burden][name]

    def __iter__(self) -> Iterator[W]:
        """The least burdened first. Do not change the index while iterating."""
        while self._lowest < len(self._by_burden) - 1 and not self._by_burden[self._lowest]:
            self._lowest += 1
        for bucket in self._by_burden[self._lowest :]:
            yield from bucket.values()

    def __reversed__(self) -> Iterator[W]:
        """The most burdened first."""
        while len(self._by_burden) > 1 and not self._by_burden[-1]:
            self._by_burden.pop()
        self._lowest = min(self._lowest, len(self._by_burden) - 1)
        for bucket in reversed(self._by_burden):
            yield from bucket.values()
