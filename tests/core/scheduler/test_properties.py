"""Random requests with random negotiated limits: every sequence has the same output as if it ran
alone, and all resources are free at the end.
"""

from __future__ import annotations

import random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.core.scheduler.fingerprints import VOCAB_SIZE
from tests.core.scheduler.simulation import (
    DRAWN,
    FEATURES,
    GREEDY,
    SCORED,
    Simulation,
    make_agreement,
)
from tgi.backend import API_VERSION, Agreement, CacheGroup, KVCachePlan, Limits
from tgi.scheduler import SchedulerConfig


@st.composite
def agreements(draw):
    is_chunked = draw(st.booleans())
    limits = {
        "max_sequences": draw(st.integers(1, 6)),
        "max_step_tokens": draw(st.integers(8, 24)),
        "mixed": draw(st.booleans()),
        "chunked": is_chunked,
        "chunk_multiple": draw(st.sampled_from([1, 1, 4, 8])),
        "max_prefills": draw(st.sampled_from([0, 0, 1, 2])),
        "decode_rows_first": draw(st.booleans()),
        "depth": draw(st.integers(1, 3)),
        "tokens_per_step": draw(st.sampled_from([1, 1, 2, 5])),
    }
    num_blocks = draw(st.integers(6, 16))
    groups = draw(
        st.sampled_from(
            [
                (CacheGroup("full", num_blocks),),
                (CacheGroup("full", num_blocks), CacheGroup("full", num_blocks)),
                (CacheGroup("full", num_blocks), CacheGroup("window", num_blocks + 2, 8)),
                (CacheGroup("full", num_blocks), CacheGroup("state", 20)),
                (CacheGroup("state", 3),),
                (CacheGroup("full", num_blocks), CacheGroup("cross", num_blocks)),
                (CacheGroup("full", num_blocks), CacheGroup("state", 5), CacheGroup("cross", 9)),
            ]
        )
    )
    features = draw(
        st.sampled_from(
            [
                FEATURES,
                FEATURES,
                ("prefix_cache", "prompt_logprobs"),
                ("device_token", "prompt_logprobs"),
            ]
        )
    )
    if limits["tokens_per_step"] > 1 and draw(st.booleans()):
        features = (*features, "multi_token")
    return make_agreement(
        draw(st.sampled_from(["paged", "paged", "slots"])),
        groups=groups,
        features=features,
        **limits,
    )


def add_random(simulation, rng):
    shared = [3, 1, 4, 1, 5, 9, 2, 6][: rng.choice([0, 4, 8])]
    prompt = shared + [
        rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(0 if shared else 1, 14))
    ]
    plan, encoder_tokens = simulation.agreement.kv_cache, []
    if plan.mode == "paged" and any(group.kind == "cross" for group in plan.groups):
        # Some of the encoder inputs are longer than a step.
        encoder_tokens = [rng.randrange(VOCAB_SIZE) for _ in range(rng.choice([1, 4, 7, 15, 30]))]
    simulation.add(
        prompt,
        rng.randint(1, 20),
        sampling=rng.choice([GREEDY, DRAWN, SCORED]),
        seed=rng.getrandbits(64),
        eos_token_ids=rng.choice([(), (7,)]),
        adapter=rng.choice([0, 0, 1]),
        output_token_ids=rng.choice([[], [], [], [1, 2, 3]]),
        encoder_token_ids=encoder_tokens,
    )


# The encoder input is longer than the token budget, and the row of its sequence is rounded to a
# chunk multiple. The rest of the budget must not be used by other rows.
LONG_ENCODER = Agreement(
    api=API_VERSION,
    features=("device_token", "prompt_logprobs", "logprobs"),
    limits=Limits(
        max_total_tokens=48, max_sequences=2, max_step_tokens=10, mixed=False, chunk_multiple=4
    ),
    kv_cache=KVCachePlan("paged", 4, (CacheGroup("full", 7), CacheGroup("cross", 7))),
    vocab_size=11,
    sampling=(),
)


@settings(max_examples=150, deadline=None)
@given(agreements(), st.integers(0, 2**32), st.booleans(), st.integers(0, 5))
@example(LONG_ENCODER, 1, False, 0)
def test_random_work_equals_running_alone(agreement, seed, fails, max_waiting_tokens):
    rng = random.Random(seed)
    config = SchedulerConfig(
        max_waiting_tokens=max_waiting_tokens, waiting_served_ratio=rng.choice([0.0, 0.3, 1.2])
    )
    simulation = Simulation(agreement, config, failures=random.Random(seed) if fails else None)
    simulation.run_randomly(rng, add_random)
