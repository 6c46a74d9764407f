"""The book of what keys have used: windows, days, jobs, and other gateways."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from stoker.schemas.keys import ApiKey
from stoker.schemas.usage import KeyUse
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.usage import DAY_S, MINUTE_S, Book

KEY = ApiKey("k", "test", "", 0.0)
NOON = DAY_S * 20_000 + DAY_S / 2


def refusal(check: Callable[..., object], *arguments: object) -> RequestError | None:
    try:
        check(*arguments)
    except RequestError as error:
        assert error.status == 429 and error.code == "rate_limit_exceeded"
        return error
    return None


def test_requests_by_the_minute_with_the_headers_of_openai() -> None:
    book, key = Book(), replace(KEY, requests_per_minute=2)
    assert book.check_request(key, NOON) == {
        "x-ratelimit-limit-requests": "2", "x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "0s"
    }  # fmt: skip
    book.note(KeyUse("k", requests=1), NOON)
    book.note(KeyUse("k", requests=1, gateway="another"), NOON + 10)
    refused = refusal(book.check_request, key, NOON + 20)
    assert refused is not None and refused.retry_after_s == 41
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refusal(book.check_request, key, NOON + 60) is None


def test_tokens_by_the_minute() -> None:
    book, key = Book(), replace(KEY, tokens_per_minute=100)
    book.note(KeyUse("k", tokens=99), NOON)
    assert book.check_request(key, NOON)["x-ratelimit-remaining-tokens"] == "1"
    book.note(KeyUse("k", tokens=50), NOON + 1)
    refused = refusal(book.check_request, key, NOON + 2)
    assert refused is not None and "100 tokens a minute" in str(refused)
    assert refusal(book.check_request, key, NOON + 60) is None


def test_requests_and_device_seconds_by_the_day() -> None:
    book, key = Book(), replace(KEY, requests_per_day=2, device_seconds_per_day=10.0)
    book.note(KeyUse("k", requests=2, device_s=9.5), NOON)
    refused = refusal(book.check_request, key, NOON)
    assert refused is not None and refused.retry_after_s == DAY_S / 2 + 1
    assert refusal(book.check_jobs, key, ["j"], NOON) is None
    book.note(KeyUse("k", device_s=1.0), NOON)
    assert refusal(book.check_jobs, key, ["j"], NOON) is not None
    for check, arguments in ((book.check_request, (key,)), (book.check_jobs, (key, ["j"]))):
        assert refusal(check, *arguments, NOON + DAY_S / 2) is None, "another day"


def test_jobs_count_until_they_have_ended_wherever_they_were_accepted() -> None:
    book, key = Book(), replace(KEY, concurrency=2)
    for job, gateway in (("a", ""), ("b", "another"), ("b", "another")):
        book.note(KeyUse("k", began=job, gateway=gateway), NOON)
    assert refusal(book.check_jobs, key, ["c"], NOON) is not None
    assert refusal(book.check_jobs, key, ["a"], NOON) is None, "the same job again is no further one"
    book.note(KeyUse("k", ended="b"), NOON)
    assert refusal(book.check_jobs, key, ["c"], NOON) is None
    assert book.jobs("k") == {"a"} == book.all_jobs()
    assert book.jobs("nobody") == set()


def test_the_scheduler_knows_which_jobs_there_are_but_for_what_came_after_it_was_asked() -> None:
    book = Book()
    for at, job in enumerate(("gone", "there", "new")):
        book.note(KeyUse("k", began=job), NOON + at)
    book.reconcile("k", ["there", "elsewhere"], NOON + 3, asked_at=NOON + 1.5)
    assert book.jobs("k") == {"there", "elsewhere", "new"}
    assert book.busy() == ["k"]
    book.reconcile("k", [], NOON + 9, asked_at=NOON + 8)
    assert book.busy() == []
    book.forget("k")


def test_a_gateway_that_starts_learns_the_counts_of_the_day() -> None:
    old, new, key = Book(), Book(), replace(KEY, requests_per_day=5)
    old.note(KeyUse("k", requests=5, device_s=3.0), NOON)
    assert old.today(NOON + DAY_S) == []
    for _ in range(2):
        for use in old.today(NOON + 1):
            new.learn_today(use, NOON + 1)
    assert new.today(NOON + 1) == [KeyUse("k", requests=5, device_s=3.0)]
    assert refusal(new.check_request, key, NOON + 1) is not None


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 5)), max_size=40))
def test_in_no_minute_are_there_more_requests_than_the_limit(steps: list[tuple[float, int]]) -> None:
    book, key, now = Book(), replace(KEY, requests_per_minute=7), NOON
    taken: list[float] = []
    for pause, tries in steps:
        now += pause
        for _ in range(tries):
            if refusal(book.check_request, key, now) is None:
                book.note(KeyUse("k", requests=1), now)
                taken.append(now)
    for at in taken:
        assert sum(at <= other < at + 60 for other in taken) <= 7


class KeyLimits(RuleBasedStateMachine):
    """A key with all limits at two gateways that tell each other, against a model that keeps every time."""

    def __init__(self) -> None:
        super().__init__()
        self.key = replace(
            KEY,
            requests_per_minute=4,
            requests_per_day=9,
            concurrency=3,
            tokens_per_minute=50,
            device_seconds_per_day=20.0,
        )
        self.books = [Book(), Book()]
        self.now = NOON
        self.requests: list[float] = []
        self.tokens: list[tuple[float, int]] = []
        self.devices: list[tuple[float, float]] = []
        self.jobs: list[str] = []
        self.made = 0

    def tell(self, use: KeyUse) -> None:
        for book in self.books:
            book.note(use, self.now)

    def today(self, at: float) -> bool:
        return at // DAY_S == self.now // DAY_S

    @rule(seconds=st.sampled_from([0.0, 0.5, 20.0, 61.0, DAY_S + 1]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(at=st.integers(0, 1))
    def a_request(self, at: int) -> None:
        lately = sum(self.now - one < MINUTE_S for one in self.requests)
        tokens = sum(amount for one, amount in self.tokens if self.now - one < MINUTE_S)
        must_refuse = lately >= 4 or tokens >= 50 or sum(map(self.today, self.requests)) >= 9
        refused = refusal(self.books[at].check_request, self.key, self.now)
        assert (refused is not None) == must_refuse
        if refused is None:
            self.tell(KeyUse("k", requests=1))
            self.requests.append(self.now)

    @rule(at=st.integers(0, 1))
    def a_job_begins(self, at: int) -> None:
        self.made += 1
        used = sum(seconds for one, seconds in self.devices if self.today(one))
        refused = refusal(self.books[at].check_jobs, self.key, [f"j{self.made}"], self.now)
        assert (refused is not None) == (len(self.jobs) >= 3 or used >= 20.0)
        if refused is None:
            self.tell(KeyUse("k", began=f"j{self.made}"))
            self.jobs.append(f"j{self.made}")

    @precondition(lambda self: self.jobs)
    @rule(tokens=st.integers(0, 30), seconds=st.sampled_from([0.0, 1.0, 8.0]))
    def a_job_ends(self, tokens: int, seconds: float) -> None:
        self.tell(KeyUse("k", ended=self.jobs.pop(0), tokens=tokens, device_s=seconds))
        self.tokens.append((self.now, tokens))
        self.devices.append((self.now, seconds))

    @rule()
    def the_key_is_removed_and_made_again(self) -> None:
        for book in self.books:
            book.forget("k")
        self.requests, self.tokens, self.devices, self.jobs = [], [], [], []

    @invariant()
    def what_is_under_way_is_known(self) -> None:
        assert all(book.jobs("k") == set(self.jobs) for book in self.books)


TestKeyLimits = KeyLimits.TestCase
