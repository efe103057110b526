"""Greedy text of a whole worker equals that of `transformers`, for sequences with other caches.

These sequences have a recurrent state or encoder tokens in addition to their blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tests.backends.mixer_checkpoints import ENCODER_DECODERS, VOCAB_SIZE, save_mixer_variant
from tests.backends.scripted_core import LiveSequence, RecordingReporter, ScriptedCore, started
from tgi.architectures import load_spec
from tgi.backend import BackendError, EngineConfig, RequestedLimits
from tgi_cpu import tgi_backend

NEAR_TIE = 1e-4  # logits that differ less than this may be in either order
NUM_OUTPUT = 32
LENGTHS = {7: 40, 2: 5, 9: 33, 4: 1, 5: 17, 6: 9, 8: 26}


@dataclass(frozen=True)
class Served:
    family: str
    model: PreTrainedModel
    core: ScriptedCore
    prompts: dict[int, list[int]]
    encoder_tokens: dict[int, list[int]]

    def introduce(self, handle: int, output: list[int] | None = None) -> None:
        encoder_tokens = self.encoder_tokens.get(handle, ())
        self.core.introduce(
            handle, self.prompts[handle], output or (), encoder_tokens=encoder_tokens
        )

    def assert_greedy(self, handle: int, sequence: LiveSequence) -> None:
        """Assert that each token is the reference's best, given the tokens before it."""
        assert len(sequence.output) == NUM_OUTPUT
        tokens = torch.tensor([sequence.tokens[:-1]])
        with torch.inference_mode():
            if self.encoder_tokens:
                logits = self.model(
                    torch.tensor([self.encoder_tokens[handle]]), decoder_input_ids=tokens
                ).logits[0]
            else:
                logits = self.model(tokens).logits[0]
        logits = logits[sequence.num_prompt_tokens - 1 :]
        gap = logits.max(-1).values - logits.gather(
            -1, torch.tensor(sequence.output).unsqueeze(-1)
        ).squeeze(-1)
        assert float(gap.max()) <= NEAR_TIE


@pytest.fixture(params=["deepseek_v3", "mamba", "mamba2", "qwen3_next", "t5", "mt5"])
def served(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = save_mixer_variant(request.param, tmp_path)
    worker = tgi_backend().create_worker(
        EngineConfig("cpu", str(tmp_path), load_spec(tmp_path)), RecordingReporter()
    )
    core = started(
        worker,
        RequestedLimits(
            max_concurrent_requests=8,
            max_batch_prefill_tokens=64,
            max_total_tokens=128,
            features=("prefix_cache",),
        ),
    )
    assert worker.health(deep=True).ok
    rng = np.random.default_rng(1)
    texts = {
        handle: rng.integers(1, VOCAB_SIZE, length).tolist() for handle, length in LENGTHS.items()
    }
    if request.param in ENCODER_DECODERS:
        yield Served(request.param, model, core, {handle: [0] for handle in texts}, texts)
    else:
        yield Served(request.param, model, core, texts, {})
    worker.close()


def test_greedy_equals_transformers(served: Served) -> None:
    core = served.core
    served.introduce(7)
    core.step({7: min(7, len(served.prompts[7]))})
    served.introduce(2)
    core.step({7: 0, 2: 0})
    for handle in (9, 4):
        served.introduce(handle)
    core.step({4: 0, 7: 0, 9: min(20, len(served.prompts[9])), 2: 0})
    core.step({9: 0, 4: 0, 2: 0})
    for handle in (5, 6, 8):
        served.introduce(handle)
    core.step({2: 0, 9: 0, 5: 0, 6: 0, 8: 0})
    for _ in range(8):
        core.step(dict.fromkeys((2, 9, 4, 7, 5, 8, 6), 0))  # seven sequences of different lengths

    gone = core.drop(9)  # preempted, then computed again including its output
    core.step(dict.fromkeys((4, 2, 7), 0))
    served.introduce(9, gone.output)
    core.step({4: 0, 9: 3, 2: 0})
    core.step({9: 0, 4: 0, 2: 0})

    done = {}
    while core.live:
        core.step(dict.fromkeys(core.live, 0))
        for handle in [
            handle for handle, sequence in core.live.items() if len(sequence.output) == NUM_OUTPUT
        ]:
            done[handle] = core.drop(handle)
    assert sorted(done) == sorted(LENGTHS)
    for handle, sequence in done.items():
        served.assert_greedy(handle, sequence)


def test_negotiated_limits(served: Served) -> None:
    agreement = served.core.agreement
    kinds = {
        "deepseek_v3": ["full"],
        "mamba": ["state"],
        "mamba2": ["state"],
        "qwen3_next": ["full", "state"],
        "t5": ["full", "cross"],
        "mt5": ["full", "cross"],
    }
    assert [group.kind for group in agreement.kv_cache.groups] == kinds[served.family]
    # Blocks describe a prefix completely only if a sequence has no other cache.
    assert agreement.has("prefix_cache") == (served.family == "deepseek_v3")
    assert agreement.limits.max_sequences == 8
    assert agreement.limits.max_total_tokens == 128


def test_too_little_memory_for_states_is_rejected(tmp_path: Path) -> None:
    save_mixer_variant("mamba2", tmp_path)
    config = EngineConfig("cpu", str(tmp_path), load_spec(tmp_path), memory_fraction=1e-9)
    worker = tgi_backend().create_worker(config, RecordingReporter())
    worker.load()
    with pytest.raises(BackendError, match="too little for the states of 1 sequences"):
        worker.negotiate(RequestedLimits())
    worker.close()
