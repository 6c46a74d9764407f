"""A watcher of a job in an unkind world: whatever is cut, lost, doubled or started over, its text is exact.

Workers die and others go on from the text that was sent, or start over; messages are lost, doubled and late; the
watcher reconnects by the id of its last event. At every moment its text is a prefix of the output, without a
gap or a repeat; at the end it is the whole, and there is one terminal event.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stoker.schemas.job_events import Completed, Delta, JobEvent, LiveEvent, Progress, Started, TextOutput
from stoker.schemas.openai import Usage
from stoker.schemas.workers import SentText
from stoker.services.gateway.watching.resume import Cursor, Gap
from stoker.services.worker.jobs.event_log import EventLog


class WatchedJob(RuleBasedStateMachine):
    """The worker's side is the real event log, the watcher's side the real cursor."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = ""
        self.cursor = Cursor()
        self.text = ""
        self.ids: list[str] = []
        self.progress: list[tuple[int, int]] = []
        self.sent: list[LiveEvent] = []
        self.terminals = 0
        self.term = self.attempt = 1
        self.log = EventLog(1, 1)

    @initialize(whole=st.text("abcdefgh", min_size=1, max_size=60))
    def output(self, whole: str) -> None:
        self.whole = whole

    # The worker's side ----------------------------------------------------------------------------

    @precondition(lambda self: not self.terminals and self.log.chars < len(self.whole))
    @rule(size=st.integers(1, 9), is_lost=st.booleans())
    def more_text(self, size: int, is_lost: bool) -> None:
        text = self.whole[self.log.chars :][:size]  # each character is a token
        self.publish(self.log.delta(text, len(text)), is_lost)

    @precondition(lambda self: not self.terminals)
    @rule(is_lost=st.booleans())
    def a_step(self, is_lost: bool) -> None:
        seq = self.log.next_seq()
        event = Progress(term=self.term, attempt=self.attempt, seq=seq, step=seq, steps=100)
        self.log.note(event)
        self.publish(event, is_lost)

    @precondition(lambda self: not self.terminals)
    @rule(knows_text=st.booleans(), is_new_leader=st.booleans(), is_lost=st.booleans())
    def another_attempt(self, knows_text: bool, is_new_leader: bool, is_lost: bool) -> None:
        self.term, self.attempt = (self.term + 1, 1) if is_new_leader else (self.term, self.attempt + 1)
        self.log = EventLog(self.term, self.attempt)
        if knows_text:
            self.log.start_after(SentText(self.cursor.text(), self.cursor.tokens))
        started = Started(term=self.term, attempt=self.attempt, seq=self.log.next_seq(), worker="w")
        self.log.note(started)
        self.publish(started, is_lost)

    @precondition(lambda self: not self.terminals and self.log.chars == len(self.whole))
    @rule()
    def the_end(self) -> None:
        completed = Completed(
            job="j", model="m", created_at=0, finished_at=1, term=self.term, attempt=self.attempt,
            seq=self.log.next_seq(), history=self.log.history(),
            output=TextOutput(self.whole, "stop", Usage(1, 1, 2)),
        )  # fmt: skip
        for event in self.cursor.finish(completed):
            self.give(event)
        assert self.text == self.whole

    # On the way -----------------------------------------------------------------------------------

    def publish(self, event: LiveEvent, is_lost: bool) -> None:
        self.sent.append(event)
        if not is_lost:
            self.arrive(event)

    def arrive(self, event: LiveEvent) -> None:
        if self.terminals:
            return
        before = (self.cursor.id(), self.text)
        try:
            taken = self.cursor.take(event)
        except Gap:
            assert (self.cursor.id(), self.text) == before, "a gap moves nothing"
            self.replay()
            return
        if taken is not None:
            self.give(taken)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def comes_late_or_again(self, data: st.DataObject) -> None:
        self.arrive(data.draw(st.sampled_from(self.sent)))

    def replay(self) -> None:
        place = self.cursor
        for event in self.log.replay(place.term, place.attempt, place.seq, place.chars):
            taken = self.cursor.take(event, is_replayed=True)
            if taken is not None:
                self.give(taken)

    # The watcher's side ---------------------------------------------------------------------------

    def give(self, event: JobEvent) -> None:
        assert not self.terminals, "nothing comes after the end"
        if isinstance(event, Delta):
            assert event.at == len(self.text)
            assert event.text
            self.text += event.text
        elif isinstance(event, Completed):
            self.terminals += 1
        elif isinstance(event, Progress):
            self.progress.append((event.term * 1000 + event.attempt, event.seq))
        self.ids.append(self.cursor.id())

    @precondition(lambda self: not self.terminals)
    @rule()
    def reconnects_with_its_last_id(self) -> None:
        self.cursor = Cursor.parse(self.cursor.id())

    @invariant()
    def its_text_is_a_prefix(self) -> None:
        assert self.whole.startswith(self.text)
        assert self.whole.startswith(self.cursor.text()), "what a further attempt is told to go on after"
        assert self.cursor.chars == len(self.cursor.text())
        assert self.terminals or self.cursor.tokens == self.cursor.chars
        assert max(self.cursor.chars, self.cursor.had_chars) == len(self.text)

    @invariant()
    def steps_come_in_order_and_once(self) -> None:
        assert self.progress == sorted(set(self.progress))

    @invariant()
    def there_is_one_end_at_most(self) -> None:
        assert self.terminals <= 1


TestWatchedJob = WatchedJob.TestCase
TestWatchedJob.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
