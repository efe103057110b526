"""The work for the rows of guided sequences, counted instead of timed. If a limit is exceeded,
check whether the additional work is necessary.

A value per row is the difference between steps with many guided rows and steps with few guided
rows. The work that does not depend on the number of guided rows therefore cancels out.
"""

import concurrent.futures
import gc
import time

import numpy as np
import pytest

from tests.core.grammar.walks import byte_vocabulary
from tests.work_counter import calls_of, count_calls
from tgi.backend import (
    API_VERSION,
    Agreement,
    CacheGroup,
    KVCachePlan,
    Limits,
    ModelRunnerOutput,
    SamplingParams,
)
from tgi.engine.core import EngineCore
from tgi.engine.guidance import GuidanceManager
from tgi.engine.messages import AddSequence, Shutdown
from tgi.grammar.compile import compile_constraint
from tgi.grammar.constraint import Constraint
from tgi.grammar.pool import MatcherPool
from tgi.grammar.vocabulary_data import VocabularyData
from tgi.scheduler import Request, Scheduler, SchedulerConfig
from tgi.types import Guidance

NUM_ROWS = 32
FEW, MANY = 8, 24  # guided rows
NUM_STEPS = 20
MAX_CALLS_PER_ROW = 52  # of a guided row, in addition to those of any other row
MAX_CALLS_PER_STEP = 43  # of a step with guided rows, in addition to those of any other step
TOKEN = ord("a")
EOS = 256
MATCHER = "None.LLMatcher."


class Worker:
    """Returns the same token for each row."""

    def submit(self, step):
        self.step = step

    def collect(self):
        rows = self.step.rows
        count = rows.num_rows
        ids, none = np.full(count, TOKEN, np.int32), np.empty(0, np.int32)
        ptr, logprobs = np.arange(count + 1, dtype=np.int32), np.zeros(count, np.float32)
        return ModelRunnerOutput(
            self.step.step_id, rows.sequence, ptr, ids, logprobs, none, none, logprobs[:0]
        )


class Connection:
    """Adds the sequences, and ends the engine after `num_steps` steps."""

    def __init__(self, messages, num_steps):
        self._messages, self._num_left = messages, num_steps - 1  # `Shutdown` follows a last step

    def receive(self, *, wait):
        messages, self._messages = self._messages, []
        return messages if self._num_left else [Shutdown()]

    def is_quiet(self, seconds):
        return seconds > 0

    def send(self, message):
        assert not [output for output in message.outputs if output.error]
        self._num_left -= 1


@pytest.fixture(scope="module")
def run(request):
    """A function that runs steps with 32 rows, of which `num_guided` are guided."""
    data = VocabularyData([bytes([byte]) for byte in range(256)] + [b"<eos>"], [EOS], (EOS,), 320)
    pool = MatcherPool(byte_vocabulary(), num_threads=1)
    request.addfinalizer(pool.close)
    grammar = compile_constraint(Constraint("regex", "[a-z]*"))

    def run_steps(num_guided, num_steps):
        limits = Limits(max_total_tokens=1024, max_sequences=NUM_ROWS, max_step_tokens=512)
        plan = KVCachePlan("paged", 16, (CacheGroup("full", 4096),))
        features = ("logprobs", "mask")
        agreement = Agreement(API_VERSION, features, limits, plan, 320, ("temperature",))
        scheduler = Scheduler(agreement, SchedulerConfig(), hash_key=b"k" * 32)
        guidance = GuidanceManager(time.monotonic_ns, lambda _: OpenPool(pool), 10**12)
        guidance.set_vocabulary(data, 320)
        concurrent.futures.wait([guidance._pool])
        sampling = SamplingParams(greedy=True, logprobs="raw")
        added = [
            AddSequence(
                number,
                Request(
                    "r",
                    [1, 2, 3],
                    sampling,
                    number,
                    900,
                    (EOS,),
                    guidance=Guidance(grammar) if number < num_guided else None,
                ),
            )
            for number in range(NUM_ROWS)
        ]
        connection = Connection(added, num_steps)
        EngineCore(Worker(), scheduler, connection, 1, guidance=guidance).run()
        return guidance.budget

    pool.request(Guidance(grammar)).result(60)
    return run_steps


class OpenPool:
    """A pool that several engines use, so it is not closed with the first engine."""

    def __init__(self, pool):
        self._pool = pool
        self.num_compiled = 0

    def request(self, guidance, output_token_ids=()):
        return self._pool.request(guidance, output_token_ids)

    def close(self):
        pass


@pytest.fixture(autouse=True)
def without_garbage_collection():
    """A collection would call the finalizers of other tests while the calls are counted."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def calls_per_step(run, num_guided):
    """The calls of one decode step. Those of the first steps cancel out."""
    short, long = (
        count_calls(lambda num_steps=num_steps: run(num_guided, num_steps))
        for num_steps in (5, 5 + NUM_STEPS)
    )
    return (long - short) / NUM_STEPS


def test_calls_of_guided_rows(run):
    run(MANY, 5)
    plain, few, many = (calls_per_step(run, number) for number in (0, FEW, MANY))
    per_row = (many - few) / (MANY - FEW)
    per_step = few - plain - FEW * per_row
    print(f"{per_row:.1f} calls per guided row, {per_step:.1f} per step")
    assert per_row <= MAX_CALLS_PER_ROW
    assert per_step <= MAX_CALLS_PER_STEP


@pytest.mark.parametrize("num_guided", [FEW, MANY])
def test_one_mask_and_one_token_per_guided_row(run, num_guided):
    for name in ("unsafe_compute_mask_ptr", "consume_token"):
        calls = calls_of(lambda: run(num_guided, NUM_STEPS), {MATCHER + name})
        assert calls == num_guided * NUM_STEPS, name
    assert calls_of(lambda: run(num_guided, NUM_STEPS), {MATCHER + "deep_copy"}) == num_guided
    assert run(num_guided, NUM_STEPS).num_masks == num_guided * NUM_STEPS
