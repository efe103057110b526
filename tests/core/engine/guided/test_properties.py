"""Random mixes of guided and other sequences in the engine loop have the same outputs as each
sequence alone.
"""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.engine.engine_setup import request
from tgi.testing.doubles.null_script import NullJumps

from .fake_grammars import EOS, FakePool
from .guided_engine import BOTH, DRAWN, INLINE, LATE, MS, Engine, guided


def random_request(rng):
    prompt = [rng.randrange(1, EOS) for _ in range(rng.randint(1, 30))]
    length, eos_token_ids = rng.randint(1, 24), rng.choice([(), (EOS,)])
    seed = {"sampling": DRAWN, "eos_token_ids": eos_token_ids}
    kind = rng.choice(["even", "odd", "free", "dead", "invalid", None, None])
    if kind is None:
        return request(prompt, length, **seed)
    return guided(f"{kind}:{rng.choice([0, 3, 99])}", length, prompt, **seed)


def alone(asked):
    frontend = Engine(FakePool()).run([asked])
    return frontend.tokens[0], frontend.ends[0]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([INLINE, LATE, BOTH]),
    st.integers(1, 3),
    st.sampled_from([1, 1, 4]),
    st.sampled_from([14, 40, 400]),
    st.sampled_from([0.0, 0.1]),
)
def test_random_mixes_equal_each_sequence_alone(
    seed, features, depth, tokens_per_step, num_blocks, step_failures
):
    rng = random.Random(seed)
    pool = FakePool(is_fast=False, mask_ns=rng.choice([0, 3 * MS, 12 * MS]))

    def compile_some():
        if rng.random() < 0.3:
            pool.finish()
        return []

    def compile_at_once():
        pool.is_fast = True
        pool.finish()
        return []

    engine = Engine(
        pool,
        depth=depth,
        features=(*features, "multi_token") if tokens_per_step > 1 else features,
        tokens_per_step=tokens_per_step,
        num_blocks=num_blocks,
        block_size=4,
        max_total_tokens=54,
        max_sequences=rng.choice([2, 8]),
        max_step_tokens=rng.choice([8, 64]),
        mixed=rng.random() < 0.7,
        jumps=NullJumps(seed=seed, step_failures=step_failures),
    )
    requests = [random_request(rng) for _ in range(rng.randint(2, 10))]
    script = [compile_some] * rng.randint(0, 40) + [compile_at_once] * 500
    frontend = engine.run(requests, script)
    for number, asked in enumerate(requests):
        if "random step failure" not in str(frontend.ends[number]):
            assert (frontend.tokens[number], frontend.ends[number]) == alone(asked)
