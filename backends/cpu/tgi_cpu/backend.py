"""The `Backend` class of the CPU backend. The class reports whether this machine can run a model.

Only `create_worker`, `explain` and `quantize` import torch.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import final

import msgspec

from tgi.architectures import GenericSpec, ModelSpec
from tgi.backend import (
    API_VERSION,
    GGUF,
    SAFETENSORS,
    BackendInfo,
    DeviceInfo,
    EngineConfig,
    Implementation,
    MemoryItem,
    ModelError,
    ModelFilesWanted,
    ProbeResult,
    QuantizationJob,
    Support,
    Worker,
    WorkerReporter,
    reject_option,
    rejected_options,
)
from tgi.checkpoints.checkpoint import read_headers
from tgi.worker.cache_format import CACHE_FORMATS
from tgi.worker.cache_layout import values_per_token
from tgi.worker.cache_scales import cache_coding
from tgi.worker.checkpoint import main_dtype_of
from tgi_cpu import machine
from tgi_torch.memory import (
    DTYPE_BYTES,
    checkpoint_bytes,
    compute_dtype,
    kv_bytes_per_token,
    state_bytes,
    weights_bytes,
)
from tgi_torch.model.fallback import check_model, refused_by_fallback, slow_by_fallback
from tgi_torch.weights.checkpoint_formats import checkpoint_formats, dequantized_parameters
from tgi_torch.weights.weight_formats import (
    QUANTIZATIONS,
    CheckpointFormats,
    MatrixFormats,
    describe_quantization,
)

__all__ = ["CpuBackend", "with_compute_dtype"]

_NAME = "cpu"
_VERSION = "4.0.0.dev0"
_PRIORITY = -100  # lower than the priority of every accelerator
_SPIN_COUNT = "10000"  # about 20 us, the typical pause between two operations of one step
_MODEL_FILES = ModelFilesWanted(formats=(SAFETENSORS, GGUF))
_FLOAT32 = "float32"
_STORED_DTYPES = {"F16": "float16", "BF16": "bfloat16"}


@final
class CpuBackend:
    """Backend that runs on the CPU of any machine on which torch is installed."""

    @property
    def info(self) -> BackendInfo:
        """Name, version and priority. `auto` selects this backend if no faster backend is
        usable.
        """
        return BackendInfo(
            _NAME, API_VERSION, "tgi-cpu", _VERSION, _PRIORITY, model_files=_MODEL_FILES
        )

    def probe(self) -> ProbeResult:
        """Report that the backend is usable if torch is installed. This method finds torch without
        importing it.
        """
        if find_spec("torch") is None:
            return ProbeResult(
                False,
                "torch is not installed; install it with the backend: pip install torch tgi-cpu",
            )
        label = " ".join([platform.machine(), *machine.instruction_sets()])
        return ProbeResult(True, devices=(DeviceInfo("cpu", label, machine.total_memory()),))

    def supports(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Support:
        """Report whether the model is unsupported (with all reasons), native or slow.

        For a supported model the result contains a memory estimate.
        """
        refused = () if isinstance(spec, ModelSpec) else refused_by_fallback(spec, config)
        reasons = (*refused, *_refused_options(spec, config))
        if reasons:
            return Support("no", reasons)
        config = with_compute_dtype(spec, config)
        quantization = _formats(spec, config)
        dtype = compute_dtype(config.dtype, _stored_dtype(Path(config.model_path)), quantization)
        num_bytes = _weights_bytes(spec, config, dtype)
        memory = (
            MemoryItem("weights", num_bytes, dtype if quantization is None else quantization.name),
            MemoryItem(
                "KV cache of one token",
                kv_bytes_per_token(spec, dtype, config.kv_cache_dtype),
                config.kv_cache_dtype or dtype,
            ),
            *(
                (MemoryItem("state of one sequence", state_bytes(spec, dtype), dtype),)
                if state_bytes(spec, dtype)
                else ()
            ),
        )
        slow = () if isinstance(spec, ModelSpec) else (slow_by_fallback(spec),)
        if dtype == "float16":
            slow = (*slow, "CPUs compute float16 slowly; bfloat16 and float32 are faster")
        return Support("slow" if slow else "native", slow, memory)

    def explain(
        self, spec: ModelSpec | GenericSpec, config: EngineConfig
    ) -> tuple[Implementation, ...]:
        """Report the kernels that run the layers, and the reason against each faster kernel.

        This method imports torch.
        """
        if isinstance(spec, GenericSpec):
            return (
                Implementation(
                    "layers", "transformers", (("native kernels", "the architecture is not known"),)
                ),
            )
        # Only the `Worker` class and its modules may import torch.
        from tgi_cpu.native import load_library  # noqa: PLC0415 - see above
        from tgi_cpu.worker import unsupported_reason  # noqa: PLC0415

        weights = (
            ()
            if config.quantize is None or config.quantize not in QUANTIZATIONS
            else (Implementation("weights", describe_quantization(config.quantize)),)
        )
        cache = _described_cache(config.kv_cache_dtype)
        config = with_compute_dtype(spec, config)
        formats = _formats(spec, config)
        if isinstance(formats, CheckpointFormats):
            count = len(dequantized_parameters(formats, spec))
            reason = f"{count} parameters are dequantized, because no kernel computes their matrix"
            others = (("the same format for all parameters", reason),) if count else ()
            weights = (Implementation("weights", f"{formats.name}, as in the checkpoint", others),)
        reason = unsupported_reason(config, load_library())
        if reason:
            return (
                Implementation("layers", "torch operations", (("native kernels", reason),)),
                *weights,
                *cache,
            )
        stored = _stored_dtype(Path(config.model_path))
        weights = weights or (
            Implementation(
                "weights",
                native_weights_format(stored),
                (("16 bits", "they take longer to read"),),
            ),
        )
        return (
            Implementation(
                "layers", "native kernels", (("torch operations", "the native kernels are faster"),)
            ),
            *weights,
            *cache,
        )

    def check(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> None:
        """Check the weight files and the scales of the cache as the loader does. For a model of an
        unknown architecture, this method imports torch.
        """
        check_model(spec, config)
        if isinstance(spec, ModelSpec):
            cache_coding(config.kv_cache_dtype, Path(config.model_path), spec)

    def quantize(self, job: QuantizationJob, report: Callable[[str], None]) -> None:
        """Quantize the weights of a checkpoint by GPTQ. This method imports torch."""
        from tgi_torch.gptq.quantizer import quantize_checkpoint  # noqa: PLC0415 - see above

        quantize_checkpoint(job, report, machine.free_memory())

    def create_worker(self, config: EngineConfig, reporter: WorkerReporter) -> Worker:
        """Create the worker. This method imports torch."""
        # An OpenMP thread spins while it waits for the next operation. If several threads share a
        # processor, a spinning thread uses processor time that the working thread needs. Steps can
        # then take ten times as long. Threads therefore sleep after a short spin. torch reads this
        # variable when it loads its OpenMP runtime.
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
        from tgi_cpu.worker import create_worker  # noqa: PLC0415 - only the worker imports torch

        chosen = with_compute_dtype(config.spec, config)
        if chosen.dtype != config.dtype:
            reporter.log(
                "the weights are converted to float32, because this processor has no instructions"
                " for bfloat16; `--dtype bfloat16` needs half of the memory, but is slower"
            )
        return create_worker(chosen, reporter)


def with_compute_dtype(spec: ModelSpec | GenericSpec, config: EngineConfig) -> EngineConfig:
    """Return the configuration with the dtype float32 if no dtype was requested, bfloat16 would be
    used, and float32 is faster on this processor.

    If the weights need more than half of the memory in float32, the dtype stays bfloat16.
    """
    if config.dtype is not None or machine.has_bfloat16_products():
        return config
    if config.quantize not in QUANTIZATIONS and _stored_dtype(Path(config.model_path)) == _FLOAT32:
        return config  # float32 is the default
    if _weights_bytes(spec, config, _FLOAT32) > machine.total_memory() // 2:
        return config
    return msgspec.structs.replace(config, dtype=_FLOAT32)


def _weights_bytes(spec: ModelSpec | GenericSpec, config: EngineConfig, dtype: str) -> int:
    """Return the estimated number of bytes of the weights."""
    if not isinstance(spec, ModelSpec):
        return _checkpoint_bytes(Path(config.model_path), dtype)
    return weights_bytes(spec, dtype, _formats(spec, config))


def _formats(spec: ModelSpec | GenericSpec, config: EngineConfig) -> MatrixFormats | None:
    """Return the formats of `--quantize` or of the checkpoint. Returns None if the weights are not
    quantized, or if a file is damaged, because `Worker.load` reports such a file.
    """
    quantization = QUANTIZATIONS.get(config.quantize or "")
    if quantization is not None:
        return quantization
    try:
        return checkpoint_formats(spec, Path(config.model_path))
    except ModelError:
        return None


def native_weights_format(stored: str) -> str:
    """Describe the format in which the native kernels store weights of the dtype `stored`."""
    if stored == "bfloat16":
        return "bfloat16 in 12 bits without loss"
    return f"{stored} rounded to bfloat16, in 12 bits"


def _described_cache(name: str | None) -> tuple[Implementation, ...]:
    """Describe the format of the KV cache, if the user chose one."""
    if name is None:
        return ()
    has_scales = CACHE_FORMATS[name].scale_bytes > 0
    scales = "one scale per token and head" if has_scales else "one scale per layer"
    others = (("16 bits", "they need twice the memory"),)
    return (Implementation("KV cache", f"{name} with {scales}", others),)


def _refused_options(spec: ModelSpec | GenericSpec, config: EngineConfig) -> tuple[str, ...]:
    refused = rejected_options(
        config,
        _NAME,
        dtypes=sorted(DTYPE_BYTES),
        quantize=QUANTIZATIONS,
        kv_cache_dtypes=CACHE_FORMATS,
    )
    if config.quantize in QUANTIZATIONS and isinstance(spec, GenericSpec):
        remedy = "it quantizes only architectures that are built in; leave the option out"
        refused = (*refused, reject_option(_NAME, "quantize", config.quantize, remedy))
    if config.kv_cache_dtype is not None and config.kv_cache_dtype in CACHE_FORMATS:
        refused = (*refused, *_refused_caches(spec, config.kv_cache_dtype))
    return refused


def _refused_caches(spec: ModelSpec | GenericSpec, name: str) -> tuple[str, ...]:
    """Return the reason why this model cannot have a cache in the format `name`. The result is
    empty if it can.
    """
    if isinstance(spec, GenericSpec):
        remedy = "it does this only for architectures that are built in"
    elif not values_per_token(spec):
        remedy = "it does this only for models with attention"
    else:
        return ()
    return (reject_option(_NAME, "kv_cache_dtype", name, f"{remedy}; leave the option out"),)


def _checkpoint_bytes(model_path: Path, dtype: str) -> int:
    """Return the bytes of the checkpoint's weights in `dtype`, which are used only for the
    estimate.

    Returns 0 if a file is damaged, because `Worker.load` reports such a file.
    """
    try:
        return checkpoint_bytes(model_path, dtype)
    except ModelError:
        return 0


def _stored_dtype(model_path: Path) -> str:
    """Return the dtype of most of the weights, which is used only for the estimate."""
    try:
        stored = main_dtype_of(read_headers(model_path), model_path)
    except ModelError:
        return _FLOAT32
    return _STORED_DTYPES.get(stored, _FLOAT32)
