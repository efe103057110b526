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
from tests.backends.published_hybrids import PUBLISHED_HYBRIDS
from tgi.architectures import load_spec
from tgi.backend import BackendError, EngineConfig, RequestedLimits
from tgi.testing.conformance.backend_under_test import RecordingReporter, start
from tgi.testing.conformance.live_sequence import LiveSequence
from tgi.testing.conformance.scripted_core import ScriptedCore
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

    def add(self, handle: int, output: list[int] | None = None) -> LiveSequence:
        return self.core.add(
            self.prompts[handle],
            handle=handle,
            output=output or (),
            encoder_tokens=self.encoder_tokens.get(handle, ()),
        )

    def step(self, work: dict[int, int]) -> None:
        self.core.step({self.core.live[handle]: count for handle, count in work.items()})

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
        logits = logits[len(sequence.prompt) - 1 :]
        gap = logits.max(-1).values - logits.gather(
            -1, torch.tensor(sequence.output).unsqueeze(-1)
        ).squeeze(-1)
        assert float(gap.max()) <= NEAR_TIE


OTHERS = {
    "deepseek_v3": ["full"],
    "deepseek_v32": ["full"],
    "falcon_mamba": ["state"],
    "glm_moe_dsa": ["full"],
    "mamba": ["state"],
    "mamba2": ["state"],
    "mt5": ["full", "cross"],
    "qwen3_next": ["full", "state"],
    "t5": ["full", "cross"],
}
KINDS = {name: ["full", "state"] for name in PUBLISHED_HYBRIDS} | OTHERS
"""The kinds of the cache groups of each family."""


@pytest.fixture(params=sorted(KINDS))
def served(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = save_mixer_variant(request.param, tmp_path)
    worker = tgi_backend().create_worker(
        EngineConfig("cpu", str(tmp_path), load_spec(tmp_path)), RecordingReporter()
    )
    core = start(
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
    served.add(7)
    served.step({7: min(7, len(served.prompts[7]))})
    served.add(2)
    served.step({7: 0, 2: 0})
    for handle in (9, 4):
        served.add(handle)
    served.step({4: 0, 7: 0, 9: min(20, len(served.prompts[9])), 2: 0})
    served.step({9: 0, 4: 0, 2: 0})
    for handle in (5, 6, 8):
        served.add(handle)
    served.step({2: 0, 9: 0, 5: 0, 6: 0, 8: 0})
    for _ in range(8):
        served.step(dict.fromkeys((2, 9, 4, 7, 5, 8, 6), 0))  # seven sequences of different lengths

    gone = core.live[9]
    core.drop(gone)  # preempted, then computed again including its output
    served.step(dict.fromkeys((4, 2, 7), 0))
    served.add(9, gone.output)
    served.step({4: 0, 9: 3, 2: 0})
    served.step({9: 0, 4: 0, 2: 0})

    done = {}
    while core.live:
        core.step(dict.fromkeys(core.live.values(), 0))
        for sequence in [s for s in core.live.values() if len(s.output) == NUM_OUTPUT]:
            core.drop(sequence)
            done[sequence.handle] = sequence
    assert sorted(done) == sorted(LENGTHS)
    for handle, sequence in done.items():
        served.assert_greedy(handle, sequence)


def test_negotiated_limits(served: Served) -> None:
    agreement = served.core.agreement
    assert [group.kind for group in agreement.kv_cache.groups] == KINDS[served.family]
    # Blocks describe a prefix completely only if a sequence has no other cache.
    assert agreement.has("prefix_cache") == (KINDS[served.family] == ["full"])
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
