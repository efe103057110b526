"""Greedy text of a whole worker equals that of `transformers`, for different kinds of steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.backends.checkpoints import FAMILIES, save_checkpoint
from tgi.architectures import load_spec
from tgi.backend import EngineConfig, RequestedLimits
from tgi.testing.conformance.backend_under_test import RecordingReporter, start
from tgi_cpu import tgi_backend

NEAR_TIE = 1e-4  # logits that differ less than this may be in either order
NUM_OUTPUT = 32


@pytest.fixture(params=FAMILIES)
def served(request, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # more threads do not help with such a small model
    model = save_checkpoint(request.param, tmp_path)
    config = EngineConfig("cpu", str(tmp_path), load_spec(tmp_path))
    worker = tgi_backend().create_worker(config, RecordingReporter())
    yield (
        model,
        start(
            worker,
            RequestedLimits(
                max_concurrent_requests=5,
                max_batch_prefill_tokens=64,
                features=("prefix_cache",),
            ),
        ),
    )
    worker.close()


def assert_greedy(model, sequence):
    """Assert that each token is the reference's best, given the tokens before it."""
    assert len(sequence.output) == NUM_OUTPUT
    with torch.inference_mode():
        logits = model(torch.tensor([sequence.tokens[:-1]])).logits[0, len(sequence.prompt) - 1 :]
    chosen = torch.tensor(sequence.output)
    gap = logits.max(-1).values - logits.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
    wrong = [(i, float(gap[i])) for i in (gap > NEAR_TIE).nonzero().flatten().tolist()]
    assert not wrong, f"tokens that are not the best, with their distance to it: {wrong}"


def test_greedy_equals_transformers(served):
    model, core = served
    rng = np.random.default_rng(1)
    prompts = {
        handle: rng.integers(0, 101, length).tolist()
        for handle, length in ((7, 40), (2, 5), (9, 33))
    }
    prompts[4] = prompts[7][:32] + rng.integers(0, 101, 9).tolist()  # two blocks in common

    seventh = core.add(prompts[7], handle=7)
    core.step({seventh: 7})  # a prompt in chunks that ignore block boundaries
    second = core.add(prompts[2], handle=2)
    core.step({seventh: 16, second: 0})
    core.step({second: 0, seventh: 17})  # mixed, in another order
    num_shared = 2 * core.agreement.kv_cache.block_size
    fourth = core.add(
        prompts[4], handle=4, blocks=seventh.blocks[:2], num_computed_tokens=num_shared
    )
    ninth = core.add(prompts[9], handle=9)
    core.step({fourth: 3, seventh: 0, ninth: 20, second: 0})
    core.step({ninth: 0, fourth: 0, second: 0})
    for _ in range(20):
        core.step(dict.fromkeys((second, ninth, fourth, seventh), 0))

    core.drop(ninth)  # preempted, then computed again including its output
    core.step(dict.fromkeys((fourth, second, seventh), 0))
    ninth = core.add(prompts[9], handle=9, output=ninth.output)
    core.step({fourth: 0, ninth: 21, second: 0})
    core.step({ninth: 0, fourth: 0, second: 0})

    done = {}
    while core.live:
        core.step(dict.fromkeys(core.live.values(), 0))
        for sequence in [s for s in core.live.values() if len(s.output) == NUM_OUTPUT]:
            core.drop(sequence)  # 7 ends while 4 still reads its blocks
            done[sequence.handle] = sequence
    assert sorted(done) == [2, 4, 7, 9]
    for sequence in done.values():
        assert_greedy(model, sequence)
