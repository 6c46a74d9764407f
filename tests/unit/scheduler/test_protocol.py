"""The protocol of docs/protocol.md in small worlds, every order of its steps: who may end one job.

A state is what the server has stored of the job, what two leaders believe, what two workers run, and every message that
was ever sent. Messages are never taken out, so each may come at any time, any number of times, or never; but an
assignment comes once at most, as core NATS delivers. A leader may believe at any moment that a worker is gone, and go on
acting after another was admitted: nothing here is trusted to be quick. From each state that can be reached, all rules are checked; and from each the job can still come to its end.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from msgspec import Struct
from msgspec.structs import replace

Order = tuple[int, int]
NOBODY: Order = (0, 0)
WORKERS = ("w1", "w2")
MOST_ATTEMPTS = {1: 2, 2: 1}
"""How many attempts each leader gives out, by term."""


class Leader(Struct, frozen=True, cache_hash=True):
    """What one leader believes of the job. phase: away, waiting, fencing, given, over."""

    phase: str = "away"
    attempt: int = 0
    worker: str = ""
    fence: int = 0
    must_fence: bool = False


class Running(Struct, frozen=True, cache_hash=True):
    """An attempt on a worker. newest: the last term that it has heard of."""

    order: Order = NOBODY
    fence: int = 0
    newest: int = 0


class State(Struct, frozen=True, cache_hash=True):
    """number, noted: the last record of the job. ended: who ended it; its term and attempt, 0 for the leader's word."""

    admitted: int = 1
    number: int = 0
    noted: Order = NOBODY
    ended: tuple[int, int, int] | None = None
    acked: bool = False
    leaders: tuple[Leader, Leader] = (Leader("waiting"), Leader())
    workers: tuple[Running, Running] = (Running(), Running())
    sent: frozenset[tuple[object, ...]] = frozenset()

    def told(self, *message: object) -> "State":
        return replace(self, sent=self.sent | {message})

    def leader(self, term: int, **now: object) -> "State":
        leaders = list(self.leaders)
        leaders[term - 1] = replace(leaders[term - 1], **now)
        return replace(self, leaders=(leaders[0], leaders[1]))

    def worker(self, name: str, running: Running) -> "State":
        one, two = self.workers
        return replace(self, workers=(running, two) if name == "w1" else (one, running))

    def record(self, **now: object) -> "State":
        return replace(self, number=self.number + 1, **now)

    def of(self, name: str) -> Running:
        return self.workers[WORKERS.index(name)]


@dataclass(frozen=True)
class Rules:
    """The rules of the protocol; each may be left out, to see that it is needed."""

    fences: bool = True
    """A further attempt is noted before it begins, where an earlier one may be alive."""
    admits: bool = True
    """The server takes what the leader of the newest term writes, and no other."""
    new_leader_fences: bool = True
    """A new leader does not know what its predecessor gave out."""


def steps(state: State, rules: Rules) -> Iterator[State]:
    """Every state that one step leads to."""
    for term in (1, 2):
        yield from _of_leader(state, term, rules)
    for message in state.sent:
        match message:
            case ("note", int(term), int(attempt), str(worker)):
                yield from _note(state, term, attempt, worker, rules)
            case ("assign", int(term), int(attempt), str(worker), int(fence)):
                arrived = replace(state, sent=state.sent - {message})
                yield from _take(arrived, (term, attempt), worker, fence)
            case ("end", int(term), int(attempt), int(fence)):
                yield from _end(state, (term, attempt), fence)
            case ("verdict", int(term)):
                yield from _verdict(state, term, rules)
            case (str(), int(term), *_):
                yield from _hear(state, term, message)
    for name in WORKERS:
        running = state.of(name)
        if running.order != NOBODY:
            ending = ("end", *running.order, running.fence)
            yield state.told(*ending)
            if ending not in state.sent:
                yield state.worker(name, replace(running, order=NOBODY)).told("lost", *running.order)


def _of_leader(state: State, term: int, rules: Rules) -> Iterator[State]:
    leader = state.leaders[term - 1]
    if term == 2 and leader.phase == "away":
        yield replace(state, admitted=2).leader(2, phase="waiting", must_fence=rules.new_leader_fences)
    if leader.phase == "waiting":
        yield state.told("verdict", term).leader(term, phase="over")
        if leader.attempt < MOST_ATTEMPTS[term]:
            attempt = leader.attempt + 1
            for name in WORKERS:
                given = state.leader(term, attempt=attempt, worker=name)
                if leader.must_fence and rules.fences:
                    yield given.leader(term, phase="fencing").told("note", term, attempt, name)
                else:
                    yield given.leader(term, phase="given").told("assign", term, attempt, name, leader.fence)
    if leader.phase in ("given", "fencing"):  # it was silent for too long
        yield state.leader(term, phase="waiting", must_fence=True)


def _note(state: State, term: int, attempt: int, worker: str, rules: Rules) -> Iterator[State]:
    """The server is asked to note who has the job."""
    if rules.admits and term != state.admitted:
        return
    if state.ended is not None:
        yield state.told("over", term)
    elif state.noted < (term, attempt):
        yield state.record(noted=(term, attempt)).told("noted", term, attempt, worker, state.number + 1)
    elif state.noted == (term, attempt):
        yield state.told("noted", term, attempt, worker, state.number)


def _take(state: State, order: Order, worker: str, fence: int) -> Iterator[State]:
    """A worker is given an attempt: it refuses that of an earlier leader, and lets go of an earlier one."""
    running = state.of(worker)
    if order[0] < running.newest:
        yield state.told("refused", *order)
    elif order > running.order:
        yield state.worker(worker, Running(order, fence, order[0]))


def _end(state: State, order: Order, fence: int) -> Iterator[State]:
    """An attempt ends the job."""
    if state.ended is not None:
        yield state.told("finished", *order)
    elif state.number == fence:
        yield state.record(ended=(*order, 1)).told("finished", *order)


def _verdict(state: State, term: int, rules: Rules) -> Iterator[State]:
    """A leader ends the job."""
    if rules.admits and term != state.admitted:
        return
    ended = state if state.ended is not None else state.record(ended=(term, 0, 0))
    yield _acknowledged(ended, term)


def _acknowledged(state: State, term: int) -> State:
    """The job is taken out of the stream: by the leader whose consumer there is."""
    return replace(state, acked=True) if term == state.admitted else state


def _hear(state: State, term: int, message: tuple[object, ...]) -> Iterator[State]:
    """A leader is told something: every one hears of the ends of attempts, and its own answers."""
    match message:
        case ("finished", _, _):
            for one in (1, 2):
                if state.leaders[one - 1].phase not in ("away", "over"):
                    yield _acknowledged(state, one).leader(one, phase="over")
        case ("over", _):
            yield _acknowledged(state, term).leader(term, phase="over")
        case ("noted", _, int(attempt), str(worker), int(fence)):
            leader = state.leaders[term - 1]
            if (leader.phase, leader.attempt) == ("fencing", attempt):
                now = state.leader(term, phase="given", fence=fence, must_fence=False)
                yield now.told("assign", term, attempt, worker, fence)
        case ("refused" | "lost", _, int(attempt)):
            leader = state.leaders[term - 1]
            if (leader.phase, leader.attempt) == ("given", attempt):
                yield state.leader(term, phase="waiting")


# What must hold -----------------------------------------------------------------------------------


def broken(before: State, after: State) -> str:
    """Which promise a step breaks; "" for none."""
    if before.ended is not None and after.ended != before.ended:
        return "a second terminal event"
    if after.acked and after.ended is None:
        return "taken out of the stream without an end"
    if before.ended is None and after.ended is not None:
        *ender, is_attempt = after.ended
        if is_attempt and tuple(ender) < after.noted:
            return "an attempt that was superseded has ended the job"
        if not is_attempt and ender[0] < before.admitted:
            return "a leader that was replaced has ended the job"
        began = [one.order for one in before.workers if one.order > tuple(ender)]
        if is_attempt and began:
            return "an attempt has ended the job that a later one had"
    return ""


def explore(
    rules: Rules, check: Callable[[State, State], str] = broken
) -> tuple[str, dict[State, list[State]]]:
    """All states by breadth first search: the first promise that breaks, and where each state was reached from."""
    start = State()
    reached: dict[State, list[State]] = {start: []}
    todo = deque([start])
    while todo:
        state = todo.popleft()
        for after in steps(state, rules):
            if problem := check(state, after):
                return problem, reached
            if after not in reached:
                reached[after] = []
                todo.append(after)
            reached[after].append(state)
    return "", reached


def test_no_order_of_steps_breaks_a_promise_and_the_end_can_always_be_reached() -> None:
    problem, reached = explore(Rules())
    assert problem == ""
    assert len(reached) > 10_000, "the world is too small to say anything"
    todo = [state for state in reached if state.acked]
    can_end = set(todo)
    while todo:
        for before in reached[todo.pop()]:
            if before not in can_end:
                can_end.add(before)
                todo.append(before)
    assert len(can_end) == len(reached)


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        (Rules(fences=False), "an attempt has ended the job that a later one had"),
        (Rules(new_leader_fences=False), "an attempt has ended the job that a later one had"),
        (Rules(admits=False), "a leader that was replaced has ended the job"),
    ],
)
def test_each_rule_is_needed(rules: Rules, problem: str) -> None:
    assert explore(rules)[0] == problem
