"""The worker of a torch backend: one replica of a model on one device.

A backend describes its device (`TorchDevice`) and gets the eight methods of `tgi.backend.Worker`. A
step runs inside `collect`, so that its failure is raised there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

import msgspec
import numpy as np
import torch

from tgi.architectures import GenericSpec, ModelSpec
from tgi.architectures.rope import original_length
from tgi.backend import (
    API_VERSION,
    SAMPLING_FIELDS,
    Agreement,
    BackendError,
    Control,
    ControlResult,
    EngineConfig,
    GrammarMasks,
    Health,
    Limits,
    ModelRunnerOutput,
    NewSequence,
    RequestedLimits,
    Rows,
    SamplingParams,
    SchedulerOutput,
    StepError,
    WorkerReporter,
    empty_int32,
)
from tgi.worker.pending_step import PendingStep, out_of_memory
from tgi.worker.states import WorkerState
from tgi_torch.attention.cache_layout import attention_layers, group_kinds
from tgi_torch.attention.paged import AttentionMetadata, CrossMetadata, EncoderInput
from tgi_torch.memory import (
    MemoryFacts,
    checkpoint_bytes,
    compute_dtype,
    plan_limits,
    weights_bytes,
)
from tgi_torch.model.decoder import build_decoder
from tgi_torch.model.protocols import LoadedModel, LoadModel, Model, Progress
from tgi_torch.ops import Ops
from tgi_torch.runner.decode_steps import DecodeProgram
from tgi_torch.runner.runner import ModelRunner
from tgi_torch.sampling.sampler import Sampler, TokenSampler
from tgi_torch.weights.loading import checkpoint_dtype, load_weights
from tgi_torch.weights.weight_formats import QUANTIZATIONS, Quantization

__all__ = ["TorchDevice", "TorchWorker", "decoder_loader", "no_decode_program", "torch_sampler"]

_FEATURES = ("device_token", "logprobs", "mask", "prompt_logprobs")
_UNKNOWN_FACTS = {"kernels": "transformers", "attention": "transformers"}


def torch_sampler(model: Model) -> TokenSampler:
    """A sampler of torch operations."""
    return Sampler(model.spec.vocab_size, model.device)


def no_decode_program(model: Model, sampler: TokenSampler) -> DecodeProgram | None:
    """None: every step goes through model and sampler."""
    del model, sampler
    return None


@final
@dataclass(frozen=True)
class TorchDevice:
    """What a backend says of its device."""

    device: torch.device
    block_size: int  # tokens of a cache block
    max_step_tokens: int  # where the user names no `--max-batch-prefill-tokens`
    free_bytes: Callable[[], int]  # memory this process may still take
    facts: Mapping[str, str]  # for GET /info/backend
    load_model: LoadModel
    make_sampler: Callable[[Model], TokenSampler] = torch_sampler
    make_decode_program: Callable[[Model, TokenSampler], DecodeProgram | None] = no_decode_program


def decoder_loader(
    ops: Ops, device: torch.device, quantization: Quantization | None = None
) -> LoadModel:
    """Loads the shared decoder with the operations of a backend; torch's products with quantized
    weights are those of a CPU.
    """

    def load(spec: ModelSpec, dtype: torch.dtype, path: Path, progress: Progress) -> LoadedModel:
        decoder = build_decoder(spec, ops, dtype, device, quantization)
        load_weights(decoder, path, progress)
        return decoder

    return load


@final
class TorchWorker:
    """The eight methods over decoder, cache, sampler and runner."""

    def __init__(self, config: EngineConfig, reporter: WorkerReporter, device: TorchDevice) -> None:
        self._spec = config.spec
        self._config = config
        self._reporter = reporter
        self._device = device
        self._state = WorkerState.CREATED
        self._loaded: LoadedModel | None = None
        self._agreement: Agreement | None = None
        self._model: Model | None = None
        self._runner: ModelRunner | None = None
        self._outstanding = PendingStep()
        self._quantization = None if config.quantize is None else QUANTIZATIONS[config.quantize]

    def load(self) -> None:
        """Read the weights. Raises `ModelError` naming file and tensor."""
        self._state.require(WorkerState.CREATED, "load")
        path = Path(self._config.model_path)
        dtype = compute_dtype(self._config.dtype, _name(checkpoint_dtype(path)), self._quantization)
        progress = partial(self._reporter.progress, "load")
        if isinstance(self._spec, GenericSpec):
            self._loaded = self._load_unknown(self._spec, getattr(torch, dtype), path, progress)
        else:
            self._loaded = self._device.load_model(
                self._spec, getattr(torch, dtype), path, progress
            )
        self._state = WorkerState.LOADED

    def negotiate(self, requested: RequestedLimits) -> Agreement:
        """Keep what the user gave, derive the rest from the memory left. Allocates nothing."""
        self._state.require(WorkerState.LOADED, "negotiate")
        assert self._loaded is not None
        dtype, path = _name(self._loaded.dtype), Path(self._config.model_path)
        is_chunked = self._loaded.is_chunked
        facts = MemoryFacts(
            free_bytes=int(self._device.free_bytes() * self._config.memory_fraction),
            weights_bytes=_model_bytes(self._spec, dtype, path, self._quantization),
            dtype=dtype,
            block_size=self._device.block_size,
            # A prompt that cannot be split has to fit into one step.
            max_step_tokens=max(
                self._device.max_step_tokens, 0 if is_chunked else requested.max_total_tokens or 0
            ),
            on_demand=self._device.device.type == "cpu",
            weights_detail="" if self._quantization is None else self._quantization.name,
        )
        plan = plan_limits(self._spec, requested, facts)
        self._agreement = Agreement(
            api=API_VERSION,
            features=(
                (*_FEATURES, "prefix_cache")
                if _can_share(self._spec, plan.limits.max_total_tokens)
                else _FEATURES
            ),
            limits=plan.limits if is_chunked else _unchunked(plan.limits),
            kv_cache=plan.kv_cache,
            vocab_size=self._spec.vocab_size,
            sampling=tuple(sorted(SAMPLING_FIELDS)),
            memory=plan.memory,
            facts={
                "dtype": dtype,
                "torch": str(torch.__version__),
                **self._device.facts,
                **self._facts(),
            },
        )
        self._state = WorkerState.AGREED
        return self._agreement

    def warmup(self) -> None:
        """Reserve the cache and run a small step, as serving will."""
        self._state.require(WorkerState.AGREED, "warmup")
        assert self._loaded is not None
        assert self._agreement is not None
        plan = self._agreement.kv_cache
        # One block more than agreed: `health` writes into the last, which the core does not know.
        num_blocks = 1 + max(
            (group.num_blocks for group in plan.groups if group.kind != "state"), default=0
        )
        try:
            self._model = self._loaded.with_cache(
                num_blocks, plan.block_size, self._agreement.limits
            )
            sampler = self._device.make_sampler(self._model)
            decode_program = self._device.make_decode_program(self._model, sampler)
            self._runner = ModelRunner(self._model, self._agreement.limits, sampler, decode_program)
            self._runner.run(_first_step(self._agreement))
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise BackendError(
                f"Memory ran out while a cache of {plan.max_batch_total_tokens} tokens was set up.",
                "Lower `--max-batch-total-tokens` or `--max-total-tokens`.",
            ) from error
        self._runner.drop(0)
        self._reporter.progress("warmup", 1, 1)
        self._state = WorkerState.READY

    def _facts(self) -> Mapping[str, str]:
        return {} if isinstance(self._spec, ModelSpec) else _UNKNOWN_FACTS

    def _load_unknown(
        self, spec: GenericSpec, dtype: torch.dtype, path: Path, progress: Progress
    ) -> LoadedModel:
        try:
            from tgi_torch.model.transformers_model import (  # noqa: PLC0415
                load_transformers_model,
            )
        except ImportError as error:
            raise BackendError(
                f"The architecture `{spec.model_type}` is not built in, and `transformers`, which"
                f" could run it, cannot be imported ({error}).",
                "Install tgi with the extra `transformers`.",
            ) from error
        trust = self._config.trust_remote_code
        loaded = load_transformers_model(
            spec, dtype, self._device.device, path, progress, trust_remote_code=trust
        )
        if not loaded.is_chunked:
            self._reporter.log(
                "a prompt has to fit into one step: this model's code cannot go on from a part"
                " of it"
            )
        return loaded

    def submit(self, step: SchedulerOutput | GrammarMasks) -> None:
        """Take the step that the next `collect` runs."""
        self._state.require(WorkerState.READY, "submit")
        if isinstance(step, GrammarMasks):
            raise StepError("Late masks were not agreed.", retryable=False)
        self._outstanding.submit(step)

    def collect(self) -> ModelRunnerOutput | None:
        """Run the outstanding step to its end, however long it takes; None if there is none."""
        self._state.require(WorkerState.READY, "collect")
        assert self._runner is not None
        step = self._outstanding.take()
        if step is None:
            return None
        try:
            return self._runner.run(step)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise out_of_memory(step) from error

    def control(self, request: Control) -> ControlResult:
        """Nothing of the kind was agreed."""
        return ControlResult(False, f"`{request.name}` was not agreed")

    def health(self, deep: bool) -> Health:
        """Whether the worker can serve; `deep` computes one token in a block of its own."""
        if self._state is not WorkerState.READY:
            return Health(False, f"the worker is {self._state.value}")
        if not deep:
            return Health(True)
        try:
            healthy = self._computes()
        except (MemoryError, RuntimeError) as error:
            return Health(False, f"a forward pass of one token failed: {error}")
        return Health(
            healthy, "" if healthy else "a forward pass of one token gave NaN or infinity"
        )

    def close(self) -> None:
        """Let go of weights and cache."""
        if self._loaded is not None:
            self._loaded.close()
        self._loaded = self._model = self._runner = None
        self._outstanding.take()
        self._state = WorkerState.CLOSED

    @torch.inference_mode()
    def _computes(self) -> bool:
        model, device = self._model, self._device.device
        assert model is not None
        assert self._agreement is not None
        block = model.num_blocks - 1
        tables = torch.tensor([[block]], dtype=torch.int32, device=device)
        slots = torch.tensor([block * model.block_size], device=device)
        kinds = group_kinds(self._spec)
        encoder = EncoderInput(torch.tensor([0], device=device), (1,), slots)
        metadata = AttentionMetadata(
            positions=torch.tensor([0], device=device),
            slot_mapping=slots,
            block_tables=tables,
            cu_seqlens_q=torch.tensor([0, 1], dtype=torch.int32, device=device),
            seq_lens=torch.tensor([1], dtype=torch.int32, device=device),
            query_lens=(1,),
            context_lens=(1,),
            states=(
                torch.tensor([self._agreement.limits.max_sequences], device=device)
                if "state" in kinds
                else None
            ),
            cross=CrossMetadata(tables, (1,), encoder) if "cross" in kinds else None,
        )
        hidden = model.forward(torch.tensor([0], device=device), metadata)
        return bool(model.logits(hidden).isfinite().all())


def _can_share(spec: ModelSpec | GenericSpec, max_total_tokens: int) -> bool:
    """Whether the blocks of a beginning depend on its tokens alone.

    What a recurrent state or an encoder adds is not in the blocks, and some rotations change with
    the length of the sequence.
    """
    if isinstance(spec, GenericSpec) or group_kinds(spec) != ("full",):
        return False
    ropes = (layer.rope for layer in attention_layers(spec) if layer.rope is not None)
    lengths = (original_length(rope) for rope in ropes)
    return all(length is None or length >= max_total_tokens for length in lengths)


def _first_step(agreement: Agreement) -> SchedulerOutput:
    """A prompt that reaches into a second block where the limits allow it, with a drawn token."""
    limits, plan = agreement.limits, agreement.kv_cache
    length = min(plan.block_size + 1, limits.max_total_tokens, limits.max_step_tokens)
    for group in plan.groups:
        length = (
            length if group.kind == "state" else min(length, group.num_blocks * plan.block_size)
        )
    tokens = np.zeros(length, np.int32)
    blocks = np.arange(-(-length // plan.block_size), dtype=np.int32)
    tables = [blocks[:1] if group.kind == "state" else blocks for group in plan.groups]
    encoder_tokens = (
        tokens if any(group.kind == "cross" for group in plan.groups) else empty_int32()
    )
    sampling = SamplingParams(greedy=False, top_k=10, top_p=0.9, logprobs="processed")
    new = NewSequence(
        0, "warmup", tokens, length, 0, tables, sampling, encoder_tokens=encoder_tokens
    )
    one = np.array([length], np.int32)
    rows = Rows(
        sequence=np.zeros(1, np.int32),
        start=np.zeros(1, np.int32),
        count=one,
        tokens=tokens,
        sample=np.ones(1, np.uint8),
        draw=np.full(1, 0.5, np.float32),
        new_block_ptr=[np.zeros(2, np.int32) for _ in plan.groups],
        new_blocks=[empty_int32() for _ in plan.groups],
    )
    return SchedulerOutput(0, [], [new], rows)


def _model_bytes(
    spec: ModelSpec | GenericSpec, dtype: str, path: Path, quantization: Quantization | None
) -> int:
    return (
        weights_bytes(spec, dtype, quantization)
        if isinstance(spec, ModelSpec)
        else checkpoint_bytes(path, dtype)
    )


def _unchunked(limits: Limits) -> Limits:
    """No sequence is longer than a step: after a preemption it is computed again in one piece."""
    longest = min(limits.max_total_tokens, limits.max_step_tokens)
    return msgspec.structs.replace(limits, chunked=False, max_total_tokens=longest)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_out_of_memory(error: Exception) -> bool:
    """Devices have an exception for it; the CPU allocator only has a text."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(
        error
    )
