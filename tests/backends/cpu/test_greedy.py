"""Greedy text of a whole worker equals that of `transformers`, for different kinds of steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.backends.checkpoints import FAMILIES, save_checkpoint
from tests.backends.scripted_core import RecordingReporter, started
from tgi.architectures import load_spec
from tgi.backend import EngineConfig, RequestedLimits
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
        started(worker, RequestedLimits(max_concurrent_requests=5, max_batch_prefill_tokens=64)),
    )
    worker.close()


def assert_greedy(model, sequence):
    """Assert that each token is the reference's best, given the tokens before it."""
    assert len(sequence.output) == NUM_OUTPUT
    with torch.inference_mode():
        logits = model(torch.tensor([sequence.tokens[:-1]])).logits[
            0, sequence.num_prompt_tokens - 1 :
        ]
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

    core.introduce(7, prompts[7])
    core.step({7: 7})  # a prompt in chunks that ignore block boundaries
    core.introduce(2, prompts[2])
    core.step({7: 16, 2: 0})
    core.step({2: 0, 7: 17})  # mixed, in another order
    core.introduce(4, prompts[4], blocks=core.live[7].blocks[:2])
    core.introduce(9, prompts[9])
    core.step({4: 3, 7: 0, 9: 20, 2: 0})
    core.step({9: 0, 4: 0, 2: 0})
    for _ in range(20):
        core.step(dict.fromkeys((2, 9, 4, 7), 0))

    gone = core.drop(9)  # preempted, then computed again including its output
    core.step(dict.fromkeys((4, 2, 7), 0))
    core.introduce(9, prompts[9], gone.output)
    core.step({4: 0, 9: 21, 2: 0})
    core.step({9: 0, 4: 0, 2: 0})

    done = {}
    while core.live:
        core.step(dict.fromkeys(core.live, 0))
        for handle in [h for h, s in core.live.items() if len(s.output) == NUM_OUTPUT]:
            done[handle] = core.drop(handle)  # 7 ends while 4 still reads its blocks
    assert sorted(done) == [2, 4, 7, 9]
    for sequence in done.values():
        assert_greedy(model, sequence)
