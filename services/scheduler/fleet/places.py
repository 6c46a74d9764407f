"""On how many workers something is, whatever each of them says it has. Pure."""


class Places:
    """Counts by what is there. All methods are O(what has changed)."""

    def __init__(self) -> None:
        self._at: dict[str, set[str]] = {}
        self._of: dict[str, frozenset[str]] = {}

    def note(self, worker: str, has: frozenset[str]) -> None:
        """What a worker has now."""
        before = self._of.get(worker, frozenset())
        if has == before:
            return
        for gone in before - has:
            self._at[gone].discard(worker)
            if not self._at[gone]:
                del self._at[gone]
        for new in has - before:
            self._at.setdefault(new, set()).add(worker)
        if has:
            self._of[worker] = has
        else:
            self._of.pop(worker, None)

    def count(self, what: str) -> int:
        """How many workers have it."""
        return len(self._at.get(what, ()))
