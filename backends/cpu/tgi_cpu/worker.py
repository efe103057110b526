"""Creates the worker of the CPU backend: the shared torch worker, running on this machine's CPUs.

The native kernels run the model if they support all of its parts. Otherwise the shared decoder runs
it with torch operations, and the log reports the reason at startup.
"""

from __future__ import annotations

from pathlib import Path

import torch

from tgi.architectures import ModelSpec
from tgi.backend import EngineConfig, ModelError, Worker, WorkerReporter
from tgi_cpu import machine
from tgi_cpu.native import NativeLibrary, load_library
from tgi_cpu.native_decoder import NativeDecodeProgram, NativeModel, native_loader
from tgi_cpu.native_records import BLOCK_TOKENS
from tgi_cpu.native_sampler import NativeSampler
from tgi_cpu.native_support import unsupported
from tgi_torch.memory import compute_dtype
from tgi_torch.model.protocols import Model
from tgi_torch.ops import REFERENCE
from tgi_torch.runner.decode_steps import DecodeProgram
from tgi_torch.runner.device import TorchDevice, decoder_loader, no_decode_program
from tgi_torch.runner.worker import torch_worker
from tgi_torch.sampling.protocols import TokenSampler
from tgi_torch.sampling.sampler import NUMPY_KERNELS, Sampler
from tgi_torch.weights.checkpoint_formats import checkpoint_formats
from tgi_torch.weights.loading import checkpoint_dtype
from tgi_torch.weights.weight_formats import (
    INT8,
    QUANTIZATIONS,
    CheckpointFormats,
    Quantization,
    describe_quantization,
    describe_scales,
)

__all__ = ["create_worker", "unsupported_reason"]

_DEVICE = torch.device("cpu")
# Blocks are gathered by index, so small blocks are not slower. With small blocks, more tokens of a
# common prefix are shared.
_TORCH_BLOCK_TOKENS = 16
# Matrix products reach their full throughput at about 500 rows. More rows would only delay the
# sequences that are decoding.
_MAX_STEP_TOKENS = 1024


def create_worker(config: EngineConfig, reporter: WorkerReporter) -> Worker:
    """Create a worker that uses all processors that this process may use."""
    threads = machine.num_threads()
    torch.set_num_threads(threads)
    library = load_library()
    reason = unsupported_reason(config, library)
    quantization = QUANTIZATIONS.get(config.quantize or "")
    if quantization is not None and config.quantize is not None:
        reporter.log(f"`--quantize {config.quantize}`: {describe_quantization(config.quantize)}")
    stored = None if quantization else checkpoint_formats(config.spec, Path(config.model_path))
    if library is not None and not reason:
        kernels, block_size = "native", BLOCK_TOKENS
        load_model, make_sampler = native_loader(library, threads, quantization), _native_sampler
        make_decode_program = _native_decode_program
    else:
        if isinstance(config.spec, ModelSpec):
            reporter.log(
                f"the model runs in torch operations, not in the faster native kernels: {reason}"
            )
        kernels, block_size = "torch", _TORCH_BLOCK_TOKENS
        load_model, make_sampler = decoder_loader(REFERENCE, _DEVICE, quantization), _torch_sampler
        make_decode_program = no_decode_program
    device = TorchDevice(
        device=_DEVICE,
        block_size=block_size,
        max_step_tokens=_MAX_STEP_TOKENS,
        free_bytes=machine.free_memory,
        facts={
            "device": "cpu",
            "kernels": kernels,
            "attention": f"paged, {kernels}",
            "threads": str(threads),
            "quantization": _quantization(quantization, stored),
            **({} if quantization is None else {"weight scales": _scales(quantization, kernels)}),
            "isa": " ".join(machine.instruction_sets()) or "unknown",
        },
        load_model=load_model,
        make_sampler=make_sampler,
        make_decode_program=make_decode_program,
    )
    return torch_worker(config, reporter, device)


def _quantization(quantization: Quantization | None, stored: CheckpointFormats | None) -> str:
    """Describe the weights, for `GET /info/backend`."""
    if quantization is not None:
        return f"{quantization.name} weights"
    return "none" if stored is None else stored.name


def _scales(quantization: Quantization, kernels: str) -> str:
    """Describe the weights of a layer that share a scale, for `GET /info/backend`."""
    if kernels == "torch" and quantization.layers == INT8:
        return "a scale for every output"  # torch's kernel requires this
    return describe_scales(quantization.layers)


def unsupported_reason(config: EngineConfig, library: NativeLibrary | None) -> str:
    """Return the reason why the native kernels cannot run this model. The result is empty if they
    can.
    """
    if library is None:
        return "they were not built; install a C++ compiler and reinstall tgi-cpu"
    if not library.is_supported:
        return "this processor lacks AVX-512 with bfloat16 products"
    if not isinstance(config.spec, ModelSpec):
        return "the architecture is not known"
    try:
        stored = str(checkpoint_dtype(Path(config.model_path))).removeprefix("torch.")
    except ModelError:
        return ""  # loading the checkpoint reports this error with more detail
    dtype = compute_dtype(config.dtype, stored, QUANTIZATIONS.get(config.quantize or ""))
    if dtype != "bfloat16":
        return f"they compute in bfloat16, not {dtype}"
    return ", ".join(f"{what} is not supported" for what in unsupported(config.spec))


def _native_sampler(model: Model) -> TokenSampler:
    assert isinstance(model, NativeModel)
    return NativeSampler(model.engine, model.spec.vocab_size)


def _native_decode_program(model: Model, sampler: TokenSampler) -> DecodeProgram | None:
    assert isinstance(model, NativeModel)
    assert isinstance(sampler, NativeSampler)
    return NativeDecodeProgram(model, sampler) if model.max_decode_rows else None


def _torch_sampler(model: Model) -> TokenSampler:
    return Sampler(model.spec.vocab_size, _DEVICE, NUMPY_KERNELS)
