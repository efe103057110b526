"""The rules for restarts after crashes, on a virtual clock."""

import pytest

from tgi.engine.restart_policy import RestartPolicy


class Service:
    """An engine that needs `start_seconds` to start, on a virtual clock."""

    def __init__(self, start_seconds=1.0):
        self.policy, self.now, self._start_seconds = RestartPolicy(), 0.0, start_seconds
        self.policy.note_ready(0.0)

    def crash(self, serving_seconds, has_progressed=False):
        """Serve, crash and start again. Returns the pause before the startup."""
        self.now += serving_seconds
        pause = self.policy.note_crash(self.now, has_progressed)
        self.now += pause + self._start_seconds
        self.policy.note_ready(self.now)
        return pause


@pytest.mark.parametrize("start_seconds", [1.0, 100.0, 1000.0])
def test_crashes_without_progress_count_without_the_time_of_startups(start_seconds):
    service = Service(start_seconds)
    assert [service.crash(1.0) for _ in range(5)] == [0, 0, 0, 10, 20]
    assert service.policy.is_tripped


@pytest.mark.parametrize("serving_seconds", [0.1, 10.0])
def test_any_number_of_crashes_with_progress_is_survived(serving_seconds):
    service = Service(200.0)
    assert not any(service.crash(serving_seconds, has_progressed=True) for _ in range(100))
    assert not service.policy.is_tripped


def test_pauses_grow_up_to_a_maximum():
    service = Service()
    pauses = [service.crash(1.0) for _ in range(12)]
    assert pauses == [0, 0, 0, 10, 20, 40, 80, 160, 300, 300, 300, 300]


def test_progress_ends_the_pauses():
    service = Service()
    assert [service.crash(1.0) for _ in range(5)][-1] == 20
    assert service.crash(1.0, has_progressed=True) == 0
    assert not service.policy.is_tripped
    assert [service.crash(1.0) for _ in range(4)] == [0, 0, 0, 10]


def test_a_crash_without_progress_after_a_pause_leads_to_the_next_pause():
    service = Service()
    for _ in range(4):
        service.crash(1.0)
    assert service.policy.is_tripped
    assert service.crash(299.0) == 20


def test_serving_for_a_long_time_is_progress():
    service = Service()
    assert [service.crash(3600.0) for _ in range(10)] == [0] * 10


def test_failed_starts_are_tried_again_with_pauses():
    policy = RestartPolicy()
    policy.note_ready(0.0)
    assert [policy.note_failed_start() for _ in range(6)] == [0.5, 1.0, 2.0, 10.0, 20.0, 40.0]
