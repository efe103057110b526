"""The limit of prefill steps recovers after a step that was slow by chance."""

import msgspec
import pytest

from tests.core.server.fake_engine import agreement
from tgi.backend import StepTimes
from tgi.scheduler.prefill import PrefillPace

MS = 1_000_000
NUM_DECODE_ROWS = 10
MAX_STEP_NS = 500 * MS


def step_ns(num_tokens, first_ns, token_ns):
    return first_ns + token_ns * num_tokens


def run_steps(pace, first_ns, token_ns, count=40):
    """Run steps of the largest allowed size. Returns their numbers of prefill tokens."""
    sizes = []
    for _ in range(count):
        size = pace.max_prefill_tokens(NUM_DECODE_ROWS)
        pace.note(
            size + NUM_DECODE_ROWS,
            StepTimes(forward=step_ns(size + NUM_DECODE_ROWS, first_ns, token_ns)),
        )
        sizes.append(size)
    return sizes


@pytest.mark.parametrize("token_ns", [MS // 10, MS, 20 * MS], ids=["fast", "medium", "slow"])
@pytest.mark.parametrize("num_tokens", [20, 100, 4096])
@pytest.mark.parametrize("seconds", [0.7, 5, 60])
def test_a_step_that_was_slow_by_chance_does_not_change_the_limit(token_ns, num_tokens, seconds):
    first_ns = 20 * MS
    limits = msgspec.structs.replace(agreement().limits, max_step_tokens=8192)
    pace, undisturbed = (PrefillPace(limits) for _ in range(2))
    for each in (pace, undisturbed):
        each.note(NUM_DECODE_ROWS, StepTimes(forward=step_ns(NUM_DECODE_ROWS, first_ns, token_ns)))
        run_steps(each, first_ns, token_ns)
    usual = step_ns(num_tokens, first_ns, token_ns)
    pace.note(num_tokens, StepTimes(forward=usual + int(seconds * 1000) * MS))
    sizes = run_steps(pace, first_ns, token_ns)
    assert sizes[-1] == pytest.approx(run_steps(undisturbed, first_ns, token_ns)[-1], rel=0.05)
    assert all(step_ns(size + NUM_DECODE_ROWS, first_ns, token_ns) <= MAX_STEP_NS for size in sizes)
