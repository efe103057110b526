"""The rules by which a hanging engine is recognized, on a virtual clock."""

import pytest

from tgi.engine.process import Liveness, LivenessLimits

LIMITS = LivenessLimits()
# Processor seconds per second of an engine that works, and of one that is frozen.
BUSY, FROZEN = 1.0, 0.0


class Engine:
    """An engine on a virtual clock. The front end applies the rules once per tick."""

    def __init__(self, *, is_ready=True, step_seconds=None):
        self.now, self.processor = 0.0, 5.0
        self.liveness = Liveness(LIMITS, 0.0)
        if is_ready:
            self.liveness.note_ready(0.0)
        if step_seconds is not None:
            self.liveness.note_step(int(step_seconds * 1e9))
        self.red_at = self.failed_at = None
        self.failure = ""

    def run(self, seconds, *, share=FROZEN, is_replying=False, reports_every=None, is_ok=True):
        """Let the time pass. Returns the reason for which the engine must be killed."""
        end, liveness = self.now + seconds, self.liveness
        while self.now < end and not self.failure:
            self.now += LIMITS.tick_seconds
            self.processor += share * LIMITS.tick_seconds
            if reports_every is not None and self.now % reports_every < LIMITS.tick_seconds:
                liveness.last_heard = self.now
            if self.now - liveness.last_heard > LIMITS.silent_seconds:
                liveness.note_processor(self.now, self.processor)
            if self.red_at is None and not liveness.is_healthy(self.now):
                self.red_at = self.now
            self.failure = liveness.failure(self.now)
            if self.failure:
                self.failed_at = self.now
            elif liveness.needs_check(self.now):
                liveness.note_check_sent(self.now)
                if is_replying:
                    liveness.last_heard = self.now
                    liveness.note_check(self.now, is_ok)
        return self.failure


@pytest.mark.parametrize(
    ("before", "step_seconds", "limit"),
    [
        ({"is_replying": True}, None, 30),
        ({"is_replying": True}, 0.02, 30),
        ({"reports_every": 1}, 0.02, 30),
        ({"reports_every": 5, "share": BUSY}, 5.0, 100),
    ],
    ids=["idle from the beginning", "idle after work", "busy", "busy with long steps"],
)
def test_a_freeze_is_red_in_ten_seconds_and_ends_in_the_limit(before, step_seconds, limit):
    engine = Engine(step_seconds=step_seconds)
    assert not engine.run(1000, **before)
    assert engine.red_at is None
    frozen_at = engine.now
    assert "used no processor time" in engine.run(1000)
    assert engine.red_at - frozen_at <= 10
    assert limit / 2 < engine.failed_at - frozen_at <= limit


def test_one_long_pause_does_not_change_the_measured_step():
    engine = Engine()
    for seconds in (*[0.01] * 20, 25.0, *[0.01] * 5):
        engine.liveness.note_step(int(seconds * 1e9))
    assert engine.liveness.freeze_limit == 30


@pytest.mark.parametrize("share", [BUSY, 0.05])
def test_an_engine_that_computes_without_a_message_is_alive(share):
    engine = Engine()
    assert not engine.run(500, share=share)
    assert engine.red_at is None


def test_an_engine_that_computes_for_ever_is_ended():
    assert "sent nothing" in Engine().run(2000, share=BUSY)


def test_background_threads_of_a_frozen_engine_are_no_sign_of_life():
    assert Engine().run(40, share=0.002)


@pytest.mark.parametrize("phase_seconds", [100, 10_000])
def test_a_startup_phase_that_reports_progress_may_take_any_time(phase_seconds):
    engine = Engine(is_ready=False)
    assert not engine.run(phase_seconds, reports_every=5)


@pytest.mark.parametrize(("share", "limit"), [(FROZEN, 120), (BUSY, 600)])
def test_a_startup_that_hangs_is_ended(share, limit):
    engine = Engine(is_ready=False)
    assert not engine.run(50, reports_every=5)
    assert engine.run(2000, share=share)
    assert engine.failed_at - 50 <= limit


def test_an_engine_that_compiles_is_alive_while_it_reports_progress():
    assert not Engine().run(5000, reports_every=5)


def test_failed_health_checks_replace_the_engine():
    engine = Engine()
    assert not engine.run(100, is_replying=True)
    begin = engine.now
    assert "failed its health checks" in engine.run(100, is_replying=True, is_ok=False)
    assert engine.red_at - begin <= 10
    assert engine.failed_at - begin <= 40


def test_after_a_failed_check_the_next_checks_run_a_forward_pass():
    engine = Engine()
    depths = []
    for is_ok in (True, False, False, True, True):
        depths.append(engine.liveness.is_check_deep)
        engine.liveness.note_check(engine.now, is_ok)
    assert depths == [False, False, True, True, False]


def test_a_busy_engine_is_checked_too():
    engine = Engine()
    engine.run(9, reports_every=1)
    engine.liveness.last_heard = engine.now
    assert not engine.liveness.needs_check(engine.now)
    engine.run(2, reports_every=1, is_replying=True)
    assert engine.now - 2 <= engine.liveness._last_check <= engine.now
