"""The description of a device, and the functions with which a backend completes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from tgi.architectures import ModelSpec
from tgi.worker.parts import Progress
from tgi_torch.model.decoder import build_decoder
from tgi_torch.model.protocols import LoadedModel, LoadModel, Model
from tgi_torch.ops import Ops
from tgi_torch.runner.decode_steps import DecodeProgram
from tgi_torch.sampling.protocols import TokenSampler
from tgi_torch.sampling.sampler import Sampler
from tgi_torch.weights.checkpoint_formats import checkpoint_formats
from tgi_torch.weights.loading import load_weights
from tgi_torch.weights.weight_formats import CheckpointFormats, MatrixFormats

__all__ = [
    "TorchDevice",
    "computed_formats",
    "decoder_loader",
    "no_decode_program",
    "torch_sampler",
]


def torch_sampler(model: Model) -> TokenSampler:
    """Return a sampler that uses torch operations."""
    return Sampler(model.spec.vocab_size, model.device)


def no_decode_program(model: Model, sampler: TokenSampler) -> DecodeProgram | None:
    """Return None, because the model has no decode program. Every step uses the model and the
    sampler.
    """
    del model, sampler
    return None


@final
@dataclass(frozen=True)
class TorchDevice:
    """The description of a device by its backend."""

    device: torch.device
    block_size: int  # tokens per cache block
    max_step_tokens: int  # used if `--max-batch-prefill-tokens` is not set
    free_bytes: Callable[[], int]  # memory that this process may still use
    facts: Mapping[str, str]  # returned by GET /info/backend
    load_model: LoadModel
    make_sampler: Callable[[Model], TokenSampler] = torch_sampler
    make_decode_program: Callable[[Model, TokenSampler], DecodeProgram | None] = no_decode_program


def decoder_loader(
    ops: Ops, device: torch.device, quantization: MatrixFormats | None = None
) -> LoadModel:
    """Return a function that loads the shared decoder with the operations of a backend. Matrix
    products with quantized weights run only on a CPU.
    """

    def load(spec: ModelSpec, dtype: torch.dtype, path: Path, progress: Progress) -> LoadedModel:
        formats = quantization or computed_formats(spec, path, device)
        decoder = build_decoder(spec, ops, dtype, device, formats)
        load_weights(decoder, path, progress)
        return decoder

    return load


def computed_formats(spec: ModelSpec, path: Path, device: torch.device) -> CheckpointFormats | None:
    """The formats of a quantized checkpoint, or None if all weights are dequantized."""
    return checkpoint_formats(spec, path) if device.type == "cpu" else None
