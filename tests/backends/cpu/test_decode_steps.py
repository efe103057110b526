"""Decode-only steps on their short code path, compared with the same steps on the general one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.backends.checkpoints import save_checkpoint
from tests.backends.cpu.native_kernels import require_library
from tgi.architectures import ModelSpec, load_spec
from tgi.backend import (
    API_VERSION,
    SAMPLING_FIELDS,
    Agreement,
    CacheGroup,
    KVCachePlan,
    Limits,
    ModelRunnerOutput,
    PromptScores,
    SamplingParams,
    SchedulerOutput,
    StepError,
)
from tgi.testing.conformance.scripted_core import ScriptedCore
from tgi_cpu.native_decoder import NativeDecodeProgram, native_loader
from tgi_cpu.native_records import BLOCK_TOKENS
from tgi_cpu.native_sampler import NativeSampler
from tgi_torch.attention.paged import AttentionMetadata
from tgi_torch.runner.decode_steps import BoundProgram
from tgi_torch.runner.runner import ModelRunner
from tgi_torch.sampling.protocols import SampledSequence

LIMITS = Limits(max_total_tokens=320, max_sequences=8, max_step_tokens=200)
AGREEMENT = Agreement(
    API_VERSION,
    ("device_token", "logprobs", "mask", "prefix_cache", "prompt_logprobs"),
    LIMITS,
    KVCachePlan("paged", BLOCK_TOKENS, (CacheGroup("full", 80),)),
    101,
    tuple(SAMPLING_FIELDS),
)
NUM_STEPS = 60

SAMPLING = [
    SamplingParams(logprobs="raw"),
    SamplingParams(greedy=False, temperature=0.8, top_p=0.9, logprobs="processed", top_n_tokens=2),
    SamplingParams(repetition_penalty=1.4, frequency_penalty=0.3, logprobs="processed"),
    SamplingParams(greedy=False, watermark_gamma=0.5, watermark_delta=4.0, top_k=20),
]


@dataclass
class CountedProgram:
    """Counts the uses of the short code path."""

    program: NativeDecodeProgram
    num_bound: int = 0
    num_steps: int = 0

    @property
    def max_rows(self) -> int:
        return self.program.max_rows

    def bind(
        self, token_ids: torch.Tensor, metadata: AttentionMetadata, sequences: list[SampledSequence]
    ) -> BoundProgram:
        self.num_bound += 1
        bound = self.program.bind(token_ids, metadata, sequences)
        forward = bound.forward

        def counted() -> None:
            self.num_steps += 1
            forward()

        bound.forward = counted  # type: ignore[method-assign]
        return bound


@dataclass
class RunnerWorker:
    """The part of a worker that the scripted core needs."""

    runner: ModelRunner
    program: CountedProgram | None
    outstanding: list[SchedulerOutput] = field(default_factory=list)

    def submit(self, step: SchedulerOutput) -> None:
        self.outstanding.append(step)

    def collect(self) -> ModelRunnerOutput:
        return self.runner.run(self.outstanding.pop())


MakeCore = Callable[..., ScriptedCore]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    save_checkpoint("llama", path)
    return path


@pytest.fixture
def make_core(checkpoint: Path) -> Iterator[MakeCore]:
    closing = []

    def make(is_short: bool, **options: int) -> ScriptedCore:
        spec = load_spec(checkpoint)
        assert isinstance(spec, ModelSpec)
        loaded = native_loader(require_library(), 1)(
            spec, torch.bfloat16, checkpoint, lambda done, total: None
        )
        closing.append(loaded)
        model = loaded.with_cache(81, BLOCK_TOKENS, LIMITS)
        sampler = NativeSampler(model.engine, spec.vocab_size)
        program = CountedProgram(NativeDecodeProgram(model, sampler)) if is_short else None
        return ScriptedCore(
            RunnerWorker(ModelRunner(model, LIMITS, sampler, program, **options), program),
            AGREEMENT,
        )

    yield make
    for loaded in closing:
        loaded.close()


ALLOWED = (tuple(range(0, 101, 3)), None, (7, 50), (100,))


def serve(core: ScriptedCore, *, has_masks: bool) -> list[ModelRunnerOutput]:
    """Run sequences that are added and dropped between decode-only steps.

    Some rows pause, and some tokens stay on the device or come from the core. With `has_masks`,
    some rows are constrained at some positions.
    """
    rng, outputs = random.Random(7), []
    for number in range(NUM_STEPS):
        if number in (0, 9, 10, 30):
            for _ in range(2):
                handle = min(set(range(8)) - core.live.keys())
                prompt = [rng.randrange(100) for _ in range(rng.randrange(5, 60))]
                sequence = core.add(prompt, SAMPLING[handle % len(SAMPLING)], handle=handle)
                sequence.allowed = ALLOWED if has_masks and handle % 3 != 2 else ()
        if number in (20, 41):
            core.drop(core.live[min(core.live)])
        work = dict.fromkeys(core.live.values(), 0)
        if number in (15, 16, 33):
            del work[core.live[max(core.live)]]
        on_device = {s for s in work if s.num_computed_tokens > 0 and rng.random() < 0.3}
        if number == 25:
            on_device = set()
            for sequence in work:
                sequence.output[-1] = (sequence.output[-1] + 1) % 100  # the core replaces the token
        for sequence in work:
            sequence.draw = rng.random()
        outputs.append(core.step(work, on_device=on_device))
    return outputs


def states(core: ScriptedCore) -> list[object]:
    """The core's record of each sequence."""
    return [
        (s.handle, s.tokens, len(s.prompt), s.num_computed_tokens, s.blocks, s.sampling)
        for s in core.live.values()
    ]


def send(core: ScriptedCore, step: SchedulerOutput) -> ModelRunnerOutput | None:
    """Run a step that violates the rules. The sequences of the core do not change."""
    core.worker.submit(step)
    return core.worker.collect()


@pytest.mark.parametrize("has_masks", [False, True])
def test_both_code_paths_give_the_same(make_core: MakeCore, has_masks: bool) -> None:
    short, long = make_core(True), make_core(False)
    pairs = zip(serve(short, has_masks=has_masks), serve(long, has_masks=has_masks), strict=True)
    for ours, theirs in pairs:
        for name in (
            "sequence",
            "token_ptr",
            "tokens",
            "logprobs",
            "top_ptr",
            "top_ids",
            "top_logprobs",
        ):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), name)
        assert ours.errors == theirs.errors
    assert states(short) == states(long)
    program = short.worker.program
    assert program.num_steps > NUM_STEPS / 2
    assert program.num_bound < program.num_steps / 2


@pytest.mark.parametrize("allowed", [(), ALLOWED])
def test_continuing_rows_are_bound_once_per_block(
    make_core: MakeCore, allowed: tuple[tuple[int, ...] | None, ...]
) -> None:
    core = make_core(True)
    sequence = core.add([1, 2, 3])
    sequence.allowed = allowed
    for _ in range(1 + 3 * BLOCK_TOKENS):
        core.step({sequence: 0})
    assert core.worker.program.num_steps == 3 * BLOCK_TOKENS
    assert core.worker.program.num_bound == 4  # after the prompt, and at three block boundaries
    for index, token in enumerate(sequence.output):
        assert token in (sequence.allowed_at(index) or range(101))


def test_an_invalid_step_is_rejected(make_core: MakeCore) -> None:
    core = make_core(True)
    sequence = core.add([1, 2, 3])
    for _ in range(3):
        core.step({sequence: 0})
    sequence.num_computed_tokens -= 1  # the core repeats a step
    last = sequence.output.pop()
    with pytest.raises(StepError, match="continues at position"):
        send(core, core.build({sequence: 1}))
    sequence.num_computed_tokens += 1
    sequence.output.append(last)
    while sequence.num_computed_tokens < BLOCK_TOKENS:
        core.step({sequence: 0})
    sequence.blocks.append(99)  # the core believes that it has sent a block
    sequence.num_sent_blocks += 1
    with pytest.raises(StepError, match="but only 1 blocks of 32"):
        send(core, core.build({sequence: 1}))


def test_a_reused_handle_is_another_sequence(make_core: MakeCore) -> None:
    core, other = make_core(True), make_core(False)
    biased = SamplingParams(logit_bias=((77, 100.0),))
    for each in (core, other):
        old = each.add([1, 2, 3], handle=0)
        for _ in range(4):
            each.step({old: 0})
        each.drop(old)
        # It begins at the position of the dropped sequence.
        sequence = each.add(
            old.tokens,
            biased,
            handle=0,
            blocks=old.blocks,
            num_computed_tokens=old.num_computed_tokens,
        )
        for _ in range(3):
            each.step({sequence: 0})
    assert core.live[0].tokens == other.live[0].tokens
    assert core.live[0].tokens[-3:] == [77, 77, 77]


@pytest.mark.parametrize("num_rows", [1, 3, 7])
def test_prompts_are_scored_in_several_parts(make_core: MakeCore, num_rows: int) -> None:
    def scores_of(**options: int) -> PromptScores:
        core = make_core(False, **options)
        ids = np.random.default_rng(1).integers(0, AGREEMENT.vocab_size, 20).tolist()
        scored = core.add(ids, SamplingParams(prompt_logprobs=True, top_n_tokens=2), handle=0)
        [scores] = core.step({scored: len(ids)}).prompt_scores
        return scores

    whole, parts = scores_of(), scores_of(scored_logits=num_rows * AGREEMENT.vocab_size)
    assert len(whole.logprobs) == 19
    assert parts.logprobs.tolist() == whole.logprobs.tolist()
    assert parts.top_ids.tolist() == whole.top_ids.tolist()
    assert parts.top_logprobs.tolist() == whole.top_logprobs.tolist()
