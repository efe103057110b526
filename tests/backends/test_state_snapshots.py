"""Models with recurrent layers compute a repeated prompt from a snapshot, with equal bits.

The scheduler of the server and the CPU backend run alone in this process. A prompt is divided at
the position of its snapshot with and without a hit, so all operations have the same operands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.backends.mixer_checkpoints import VOCAB_SIZE, save_mixer_variant
from tests.backends.published_hybrids import PUBLISHED_HYBRIDS
from tgi.architectures import load_spec
from tgi.backend import (
    Agreement,
    EngineConfig,
    RequestedLimits,
    SamplingParams,
    SchedulerOutput,
    Worker,
)
from tgi.scheduler import Request, Scheduler, SchedulerConfig
from tgi.testing.conformance.backend_under_test import REQUESTED, RecordingReporter
from tgi.testing.strict_worker import StrictWorker
from tgi_cpu import tgi_backend

FAMILIES = sorted({*PUBLISHED_HYBRIDS, "falcon_mamba", "mamba", "mamba2", "qwen3_next"})
NEAR_TIE = 1e-4  # logits that differ less than this may be in either order


@dataclass
class Server:
    """A scheduler and a worker that run one step after another."""

    worker: Worker
    agreement: Agreement
    steps: list[SchedulerOutput] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.agreement, SchedulerConfig())

    def generate(self, *prompts: list[int], count: int = 8) -> list[tuple[list[int], list[float]]]:
        """Return the tokens and the log probabilities of each prompt."""
        first = len(self.steps)
        texts: dict[int, tuple[list[int], list[float]]] = {}
        for number, prompt in enumerate(prompts, first * 100):
            sampling = SamplingParams(logprobs="raw")
            assert self.scheduler.add(number, Request("r", prompt, sampling, 0, count)) is None
            texts[number] = [], []
        while self.scheduler.has_work:
            step = self.scheduler.schedule()
            assert step is not None
            self.steps.append(step)
            self.worker.submit(step)
            output = self.worker.collect()
            assert output is not None
            for update in self.scheduler.update(output):
                assert update.error is None
                tokens, logprobs = texts[update.sequence_id]
                tokens += update.token_ids
                logprobs += [value for value in update.logprobs if value is not None]
            self.scheduler.check()
        return list(texts.values())

    def num_prompt_tokens(self, length: int, first: int) -> int:
        """Number of computed tokens of a prompt since step `first`."""
        return sum(
            int(count)
            for step in self.steps[first:]
            for start, count in zip(step.rows.start, step.rows.count, strict=True)
            if start < length
        )


@pytest.fixture
def start_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    workers = []

    def start(path: Path, **requested: int) -> Server:
        config = EngineConfig("cpu", str(path), load_spec(path))
        worker = StrictWorker(tgi_backend().create_worker(config, RecordingReporter()))
        workers.append(worker)
        worker.load()
        limits = {
            "max_concurrent_requests": 4,
            "max_batch_prefill_tokens": 256,
            "max_total_tokens": 256,
        } | requested
        agreement = worker.negotiate(RequestedLimits(features=REQUESTED.features, **limits))
        worker.warmup()
        return Server(worker, agreement)

    yield start
    for worker in workers:
        worker.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hit_gives_the_same_bits(family, tmp_path, start_server):
    model = save_mixer_variant(family, tmp_path)
    server = start_server(tmp_path)
    assert server.agreement.has("state_snapshots")
    rng = np.random.default_rng(3)
    prompt = rng.integers(1, VOCAB_SIZE, 150).tolist()
    [cold] = server.generate(prompt)
    server.generate(rng.integers(1, VOCAB_SIZE, 90).tolist())  # overwrites the sequence's state
    first = len(server.steps)
    [hit] = server.generate(prompt)
    assert server.num_prompt_tokens(150, first) == 150 - 144
    assert hit == cold
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + hit[0][:-1]])).logits[0, len(prompt) - 1 :]
    gap = logits.max(-1).values - logits.gather(-1, torch.tensor(hit[0]).unsqueeze(-1)).squeeze(-1)
    assert float(gap.max()) <= NEAR_TIE


@pytest.mark.parametrize("family", ["granitemoehybrid", "mamba2", "nemotron_h", "qwen3_5_text"])
def test_a_shared_system_prompt_is_computed_once_after_two_prompts(family, tmp_path, start_server):
    save_mixer_variant(family, tmp_path)
    server = start_server(tmp_path)
    rng = np.random.default_rng(4)
    system = rng.integers(1, VOCAB_SIZE, 128).tolist()
    prompts = [system + rng.integers(1, VOCAB_SIZE, 40).tolist() for _ in range(3)]
    alone = [server.generate(prompt)[0] for prompt in prompts[:2]]
    first = len(server.steps)
    [third] = server.generate(prompts[2])
    assert server.num_prompt_tokens(168, first) == 40
    other = start_server(tmp_path)
    [whole] = other.generate(prompts[2])
    assert third[0] == whole[0]
    np.testing.assert_allclose(third[1], whole[1], atol=1e-4)
    # Prompts in one batch, with and without hits, give the same text as alone.
    together = server.generate(*prompts)
    assert [text for text, _ in together] == [alone[0][0], alone[1][0], third[0]]


def test_the_plan_has_memory_for_snapshots(tmp_path, start_server):
    save_mixer_variant("qwen3_5_text", tmp_path)
    agreement = start_server(tmp_path).agreement
    [state] = [group for group in agreement.kv_cache.groups if group.kind == "state"]
    assert state.num_blocks == agreement.limits.max_sequences + 16
    assert [item.detail for item in agreement.memory if item.label == "snapshots"] == [
        "16 snapshots, in addition to those in unused states"
    ]
