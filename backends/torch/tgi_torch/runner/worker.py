"""The worker of a torch backend, which runs one replica of a model on one device.

A backend describes its device (`TorchDevice`) and receives a `WorkerPart` that runs on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    Dtype,
    EngineConfig,
    Limits,
    ModelRunnerOutput,
    NewSequence,
    RequestedLimits,
    Rows,
    SamplingParams,
    SchedulerOutput,
    WorkerReporter,
    empty_int32,
)
from tgi.worker.cache_format import CacheCoding
from tgi.worker.cache_layout import attention_layers, group_kinds
from tgi.worker.cache_scales import cache_coding
from tgi.worker.dequantization import dequantization_of
from tgi.worker.memory.errors import cache_out_of_memory
from tgi.worker.memory.limits import rounding_line
from tgi.worker.parts import Progress
from tgi.worker.step_worker import StepWorker
from tgi_torch.attention.paged import AttentionMetadata, CrossMetadata, EncoderInput
from tgi_torch.memory import (
    DTYPE_BYTES,
    MemoryFacts,
    checkpoint_bytes,
    compute_dtype,
    plan_limits,
    weights_bytes,
)
from tgi_torch.model.protocols import LoadedModel, Model
from tgi_torch.runner.device import TorchDevice, computed_formats
from tgi_torch.runner.runner import ModelRunner
from tgi_torch.weights.checkpoint_formats import formats_line
from tgi_torch.weights.loading import checkpoint_dtype
from tgi_torch.weights.weight_formats import QUANTIZATIONS, CheckpointFormats, MatrixFormats

__all__ = ["TorchPart", "torch_worker"]

_FEATURES = ("device_token", "logprobs", "mask", "prompt_logprobs")
_UNKNOWN_FACTS = {"kernels": "transformers", "attention": "transformers"}


def torch_worker(config: EngineConfig, reporter: WorkerReporter, device: TorchDevice) -> StepWorker:
    """Create a worker that runs one replica on one device."""
    return StepWorker(TorchPart(config, reporter, device), reporter)


@final
class TorchPart:
    """The `WorkerPart` with a model, a cache, a sampler and a runner."""

    def __init__(self, config: EngineConfig, reporter: WorkerReporter, device: TorchDevice) -> None:
        self._spec = config.spec
        self._config = config
        self._reporter = reporter
        self._device = device
        self._loaded: LoadedModel | None = None
        self._coding: CacheCoding | None = None
        self._agreement: Agreement | None = None
        self._model: Model | None = None
        self._runner: ModelRunner | None = None
        self._num_states = 0
        self._quantization: MatrixFormats | None = QUANTIZATIONS.get(config.quantize or "")

    def load(self, progress: Progress) -> None:
        """Load the weights. Raises a `ModelError` with the file and the tensor if the weights
        cannot be loaded.
        """
        path = Path(self._config.model_path)
        requested, stored = self._config.dtype, _name(checkpoint_dtype(path))
        if self._quantization is None and isinstance(self._spec, ModelSpec):
            self._quantization = computed_formats(self._spec, path, self._device.device)
        dtype = compute_dtype(requested, stored, self._quantization)
        line = None if self._quantization else rounding_line(requested, stored, dtype)
        if line is not None:
            self._reporter.log(line)
        loss = dequantization_of(self._config.model_path)
        if isinstance(self._quantization, CheckpointFormats):
            assert isinstance(self._spec, ModelSpec), "other models have no formats"
            self._reporter.log(formats_line(self._quantization, self._spec, dtype))
        elif loss is not None:
            self._reporter.log(loss.line(dtype, DTYPE_BYTES[dtype]))
        if isinstance(self._spec, GenericSpec):
            self._loaded = self._load_unknown(self._spec, getattr(torch, dtype), path, progress)
        else:
            self._loaded = self._device.load_model(
                self._spec, getattr(torch, dtype), path, progress
            )
            self._coding = cache_coding(self._config.kv_cache_dtype, path, self._spec)

    def _weights_detail(self, dtype: str) -> str:
        """Describe the weights for the memory report."""
        if self._quantization is not None:
            return self._quantization.name
        loss = dequantization_of(self._config.model_path)
        return "" if loss is None else loss.detail(dtype)

    def plan(self, requested: RequestedLimits) -> Agreement:
        """Keep the limits that the user requested, and derive the other limits from the free
        memory.
        """
        assert self._loaded is not None
        dtype, path = _name(self._loaded.dtype), Path(self._config.model_path)
        is_chunked = self._loaded.is_chunked
        facts = MemoryFacts(
            free_bytes=int(self._device.free_bytes() * self._config.memory_fraction),
            weights_bytes=_model_bytes(self._spec, dtype, path, self._quantization),
            dtype=dtype,
            block_size=self._device.block_size,
            # A prompt that cannot be split must fit into one step.
            max_step_tokens=max(
                self._device.max_step_tokens, 0 if is_chunked else requested.max_total_tokens or 0
            ),
            on_demand=self._device.device.type == "cpu",
            kv_cache_dtype=self._config.kv_cache_dtype,
            weights_detail=self._weights_detail(dtype),
        )
        plan = plan_limits(self._spec, requested, facts)
        return Agreement(
            api=API_VERSION,
            features=(*_FEATURES, *_sharing_features(self._spec, plan.limits.max_total_tokens)),
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
                **_cache_facts(self._coding, dtype),
            },
            dtype=msgspec.convert(dtype, Dtype),
        )

    def prepare(self, agreement: Agreement, progress: Progress) -> None:
        """Allocate the cache and run a small step, as a test."""
        del progress
        assert self._loaded is not None
        self._agreement = agreement
        plan = agreement.kv_cache
        # The cache has one block and one state more than were negotiated. `probe` writes into the
        # last block and the last state, because the core does not use them.
        num_blocks = 1 + max(
            (group.num_blocks for group in plan.groups if group.kind != "state"), default=0
        )
        self._num_states = 1 + max(
            (group.num_blocks for group in plan.groups if group.kind == "state"), default=0
        )
        try:
            self._model = self._loaded.with_cache(
                num_blocks,
                plan.block_size,
                agreement.limits,
                num_states=self._num_states,
                coding=self._coding,
            )
            sampler = self._device.make_sampler(self._model)
            decode_program = self._device.make_decode_program(self._model, sampler)
            self._runner = ModelRunner(self._model, agreement.limits, sampler, decode_program)
            self._runner.run(_first_step(agreement))
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            remedy = "Lower `--max-batch-total-tokens` or `--max-total-tokens`."
            raise cache_out_of_memory(agreement, remedy) from error
        self._runner.drop(0)

    def run(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Run the step."""
        assert self._runner is not None
        try:
            return self._runner.run(step)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            raise MemoryError(str(error)) from error

    def close(self) -> None:
        """Release the weights and the cache."""
        if self._loaded is not None:
            self._loaded.close()
        self._loaded = self._model = self._runner = None

    def _facts(self) -> Mapping[str, str]:
        return {} if isinstance(self._spec, ModelSpec) else _UNKNOWN_FACTS

    def _load_unknown(
        self, spec: GenericSpec, dtype: torch.dtype, path: Path, progress: Progress
    ) -> LoadedModel:
        try:
            from tgi_torch.model.transformers_loading import (  # noqa: PLC0415
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
                "a prompt must fit into one step, because this model's code does not support"
                " chunked prefill"
            )
        return loaded

    @torch.inference_mode()
    def probe(self) -> bool:
        """Compute one token in the additional block, which no sequence uses."""
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
                torch.tensor([self._num_states - 1], device=device) if "state" in kinds else None
            ),
            cross=CrossMetadata(tables, (1,), encoder) if "cross" in kinds else None,
        )
        hidden = model.forward(torch.tensor([0], device=device), metadata)
        return bool(model.logits(hidden).isfinite().all())


def _cache_facts(coding: CacheCoding | None, dtype: str) -> Mapping[str, str]:
    if coding is None:
        return {"kv cache": dtype}
    if coding.format.scale_bytes:
        scales = "one per token and head"
    else:
        scales = "one per layer, from the checkpoint" if coding.from_checkpoint else "1"
    return {"kv cache": coding.format.name, "kv cache scales": scales}


def _sharing_features(spec: ModelSpec | GenericSpec, max_total_tokens: int) -> tuple[str, ...]:
    """Return the features with which sequences share a prefix. The result is empty if the cache
    does not depend only on the tokens of the prefix.

    Blocks do not contain the encoder's output, and some rotary embeddings depend on the length of
    the sequence. The states of recurrent layers are shared through snapshots.
    """
    kinds = group_kinds(spec)
    if isinstance(spec, GenericSpec) or "cross" in kinds:
        return ()
    ropes = (layer.rope for layer in attention_layers(spec) if layer.rope is not None)
    lengths = (original_length(rope) for rope in ropes)
    if any(length is not None and length < max_total_tokens for length in lengths):
        return ()
    return ("prefix_cache", "state_snapshots") if "state" in kinds else ("prefix_cache",)


def _first_step(agreement: Agreement) -> SchedulerOutput:
    """Return a step with a prompt that reaches into a second block, if the limits allow it, and
    with a random draw.
    """
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
    spec: ModelSpec | GenericSpec, dtype: str, path: Path, quantization: MatrixFormats | None
) -> int:
    return (
        weights_bytes(spec, dtype, quantization)
        if isinstance(spec, ModelSpec)
        else checkpoint_bytes(path, dtype)
    )


def _unchunked(limits: Limits) -> Limits:
    """Return limits in which no sequence is longer than a step, because a preempted sequence is
    recomputed in one step.
    """
    longest = min(limits.max_total_tokens, limits.max_step_tokens)
    return msgspec.structs.replace(limits, chunked=False, max_total_tokens=longest)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. Devices raise their own exception types. The CPU allocator raises a
    `RuntimeError`, which is recognized by its message.
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(
        error
    )
