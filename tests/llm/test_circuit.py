"""A circuit breaker: its laws, and the numbers that a server runs with."""

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from errors import UpstreamError
from llm.circuit import Attempt, Circuit

REFUSED = UpstreamError("No.", code="upstream_rejected")
DOWN = UpstreamError("Down.", retryable=True)
DOUBTFUL = UpstreamError("Down.", retryable=True, is_doubtful=True)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    return Circuit(clock=clock)


def entered(circuit: Circuit) -> Attempt:
    attempt = circuit.enter()
    assert attempt is not None
    return attempt


def fail(circuit: Circuit, times: int = 5) -> None:
    for _ in range(times):
        entered(circuit).failed()


def test_five_failures_in_a_row_open_it_for_five_seconds(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, 4)
    assert not circuit.refuses
    entered(circuit).failed()
    assert circuit.refuses
    assert circuit.enter() is None
    assert circuit.rest() == 5.0
    clock.now += 4.5
    assert circuit.enter() is None
    assert circuit.rest() == 0.5
    clock.now += 0.5
    assert not circuit.refuses
    assert circuit.enter() is not None
    assert circuit.refuses


def test_a_complete_answer_ends_a_row_of_failures(circuit: Circuit) -> None:
    fail(circuit, 4)
    entered(circuit).completed()
    fail(circuit, 4)
    assert circuit.enter() is not None


def test_an_answer_that_only_began_does_not(circuit: Circuit) -> None:
    for _ in range(5):
        attempt = entered(circuit)
        attempt.answered()
        attempt.failed()
    assert circuit.enter() is None


@pytest.mark.parametrize(("apart", "opens"), [(15.0, True), (15.5, False)])
def test_only_failures_within_a_minute_open_it(
    circuit: Circuit, clock: Clock, apart: float, opens: bool
) -> None:
    for _ in range(4):
        entered(circuit).failed()
        clock.now += apart
    entered(circuit).failed()
    assert (circuit.enter() is None) is opens


def test_each_failed_trial_doubles_the_cooldown_up_to_a_minute(
    circuit: Circuit, clock: Clock
) -> None:
    fail(circuit)
    rests = []
    for _ in range(6):
        rests.append(circuit.rest())
        clock.now += circuit.rest()
        entered(circuit).failed()
    assert rests == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


def test_one_trial_at_a_time_and_its_first_answer_closes(circuit: Circuit, clock: Clock) -> None:
    fail(circuit)
    clock.now += 5.0
    trial = entered(circuit)
    assert circuit.enter() is None
    assert circuit.rest() == 5.0
    trial.answered()
    assert entered(circuit) is not trial
    trial.failed()
    fail(circuit, 3)
    assert circuit.enter() is not None
    fail(circuit, 1)
    assert circuit.rest() == 5.0


def test_a_trial_that_tells_nothing_gives_its_place_to_the_next(
    circuit: Circuit, clock: Clock
) -> None:
    fail(circuit)
    clock.now += 5.0
    entered(circuit).dropped()
    trial = entered(circuit)
    assert circuit.enter() is None
    trial.failed()
    assert circuit.rest() == 10.0


def test_outcomes_from_before_it_opened_are_too_late(circuit: Circuit, clock: Clock) -> None:
    early = [entered(circuit) for _ in range(3)]
    fail(circuit)
    early[0].completed()
    assert circuit.enter() is None
    clock.now += 5.0
    trial = entered(circuit)
    early[1].dropped()
    assert circuit.enter() is None
    early[1].failed()
    assert circuit.enter() is None
    trial.completed()
    fail(circuit, 4)
    early[2].failed()
    assert circuit.enter() is not None


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (DOWN, True),
        (DOUBTFUL, True),
        (REFUSED, False),
        (ValueError(), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_as_a_context_it_counts_what_another_request_would_suffer_too(
    circuit: Circuit, error: BaseException, counts: bool
) -> None:
    for _ in range(5):
        with pytest.raises(type(error)), entered(circuit):
            raise error
    assert (circuit.enter() is None) is counts


def test_as_a_context_an_orderly_end_is_a_complete_answer(circuit: Circuit) -> None:
    fail(circuit, 4)
    with entered(circuit):
        pass
    fail(circuit, 1)
    assert circuit.enter() is not None


# Whoever has nobody else to ask.


def test_once_a_second_one_is_let_through_that_has_nobody_else(
    circuit: Circuit, clock: Clock
) -> None:
    fail(circuit)
    assert circuit.enter(is_last=True) is None
    assert circuit.rest(is_last=True) == 1.0
    for _ in range(3):
        clock.now += 1.0
        assert circuit.enter() is None
        assert circuit.enter(is_last=True) is not None
        assert circuit.enter(is_last=True) is None
        assert circuit.rest(is_last=True) == 1.0


def test_a_trial_that_hangs_keeps_nobody_out_who_has_nobody_else(
    circuit: Circuit, clock: Clock
) -> None:
    fail(circuit)
    clock.now += 5.0
    trial = entered(circuit)
    clock.now += 1.0
    assert circuit.enter() is None
    spare = circuit.enter(is_last=True)
    assert spare is not None
    spare.answered()
    assert circuit.enter() is not None
    trial.failed()
    assert circuit.enter() is not None


def test_the_failure_of_one_that_had_nobody_else_changes_nothing(
    circuit: Circuit, clock: Clock
) -> None:
    fail(circuit)
    for _ in range(4):
        clock.now += 1.0
        spare = circuit.enter(is_last=True)
        assert spare is not None
        spare.failed()
    assert circuit.rest() == 1.0
    clock.now += 1.0
    assert circuit.enter() is not None


# Failures that the request itself may have caused.


def doubtful(circuit: Circuit, *marks: str, times: int = 5) -> None:
    for _ in range(times):
        attempt = circuit.enter(frozenset(marks))
        assert attempt is not None
        attempt.failed(is_doubtful=True)


def test_one_conversation_opens_it_for_nobody_however_often_it_fails(circuit: Circuit) -> None:
    doubtful(circuit, "conv_1", "Hi", times=50)
    doubtful(circuit, "conv_1", times=10)
    doubtful(circuit, "conv_2", "Hi", times=10)
    assert circuit.enter() is not None


def test_a_row_of_one_conversations_failures_is_seen_although_it_opens_nothing(
    circuit: Circuit, clock: Clock
) -> None:
    doubtful(circuit, "conv_1", times=4)
    assert not circuit.is_failing
    doubtful(circuit, "conv_1", times=1)
    assert circuit.is_failing
    assert not circuit.refuses
    clock.now += 5.0
    assert not circuit.is_failing
    doubtful(circuit, "conv_1", times=1)
    assert circuit.is_failing
    entered(circuit).completed()
    assert not circuit.is_failing


def test_five_conversations_open_it(circuit: Circuit) -> None:
    for number in range(5):
        assert circuit.enter() is not None
        doubtful(circuit, f"conv_{number}", times=1)
    assert circuit.enter() is None


def test_what_is_no_doubt_counts_each_time_whoever_it_meets(circuit: Circuit) -> None:
    for _ in range(5):
        attempt = circuit.enter(frozenset({"conv_1"}))
        assert attempt is not None
        attempt.failed()
    assert circuit.enter() is None


def test_a_trial_of_a_conversation_that_has_failed_already_tells_nothing(
    circuit: Circuit, clock: Clock
) -> None:
    for number in range(5):
        doubtful(circuit, f"conv_{number}", times=1)
    clock.now += 5.0
    doubtful(circuit, "conv_3", times=1)
    assert not circuit.refuses
    doubtful(circuit, "conv_9", times=1)
    assert circuit.rest() == 10.0


def test_a_conversation_counts_again_after_the_window(circuit: Circuit, clock: Clock) -> None:
    doubtful(circuit, "conv_1", times=1)
    clock.now += 61.0
    doubtful(circuit, "conv_1", times=1)
    fail(circuit, 4)
    assert circuit.refuses


FAILURES, WINDOW, FIRST, LONGEST = 3, 8.0, 2.0, 7.0


class Laws(RuleBasedStateMachine):
    """A circuit beside a plain account of what has happened to it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.circuit = Circuit(
            failures=FAILURES,
            window=WINDOW,
            cooldown=FIRST,
            longest=LONGEST,
            clock=self.clock,
        )
        self.open_attempts: list[tuple[Attempt, int]] = []
        self.period = 0
        self.row: list[float] = []
        self.openings = 0  # in a row; 0 is closed
        self.opened_at = 0.0
        self.trial: Attempt | None = None

    @rule()
    def enter(self) -> None:
        attempt = self.circuit.enter()
        cooldown = min(FIRST * 2 ** (self.openings - 1), LONGEST) if self.openings else 0.0
        is_cool = self.clock.now >= self.opened_at + cooldown
        assert (attempt is not None) == (is_cool and self.trial is None)
        if attempt is None:
            assert 0 < self.circuit.rest() <= LONGEST
            assert self.trial or self.circuit.rest() == self.opened_at + cooldown - self.clock.now
        else:
            self.open_attempts.append((attempt, self.period))
            self.trial = attempt if self.openings else None

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 4.0, 8.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.open_attempts)
    @rule(data=st.data())
    def answer_begins(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.open_attempts) - 1))
        attempt, _ = self.open_attempts[at]
        attempt.answered()
        if attempt is self.trial:
            self.close()
            self.open_attempts[at] = attempt, self.period

    @precondition(lambda self: self.open_attempts)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        attempt, period = self.pop(data, Attempt.completed)
        if attempt is self.trial:
            self.close()
        elif period == self.period:
            self.row = []

    @precondition(lambda self: self.open_attempts)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        attempt, period = self.pop(data, Attempt.failed)
        if attempt is self.trial:
            self.open()
        elif period == self.period and not self.openings:
            self.row.append(self.clock.now)
            newest = self.row[-FAILURES:]
            if len(newest) == FAILURES and newest[-1] - newest[0] <= WINDOW:
                self.open()

    @precondition(lambda self: self.open_attempts)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        attempt, _ = self.pop(data, Attempt.dropped)
        if attempt is self.trial:
            self.trial = None

    @invariant()
    def a_closed_circuit_has_no_trial(self) -> None:
        assert self.openings or self.trial is None

    def pop(self, data: st.DataObject, outcome: Callable[[Attempt], None]) -> tuple[Attempt, int]:
        at = data.draw(st.integers(0, len(self.open_attempts) - 1))
        attempt, period = self.open_attempts.pop(at)
        outcome(attempt)
        return attempt, period

    def open(self) -> None:
        self.openings += 1
        self.period += 1
        self.opened_at, self.trial = self.clock.now, None

    def close(self) -> None:
        self.openings = 0
        self.period += 1
        self.row, self.trial, self.opened_at = [], None, 0.0


Laws.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
test_its_laws_hold_in_any_order_of_events = Laws.TestCase
