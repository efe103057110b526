"""Quantizes a checkpoint layer by layer, as `tgi quantize` requires."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from tgi.architectures.file_reader import read_json_object
from tgi.architectures.weight_map import split
from tgi.backend import BackendError, ModelError
from tgi.backend.quantizer import GptqSettings, QuantizationJob
from tgi.checkpoints.checkpoint import Checkpoint, open_checkpoint
from tgi.checkpoints.safetensors_file import stored_array
from tgi.checkpoints.safetensors_writer import SafetensorsWriter
from tgi.worker.checkpoint import file_order, main_dtype_of
from tgi_torch.gptq.layers import LayerRunner
from tgi_torch.gptq.packing import pack_gptq, packed_bytes
from tgi_torch.gptq.solver import (
    QuantizedWeights,
    product_error,
    quantize_by_gptq,
    round_to_nearest,
)
from tgi_torch.gptq.targets import (
    Target,
    layer_placements,
    oriented_shape,
    stored_weights,
    targets_of,
)
from tgi_torch.memory import weights_bytes
from tgi_torch.weights.loading import load_weights

__all__ = ["quantization_config", "quantize_checkpoint"]

_MAX_FILE_BYTES = 5_000_000_000
_ENTRY_BYTES = 160  # header bytes of a tensor, without its name
_MAX_PARTS = 4
_DTYPES = {"qweight": "I32", "qzeros": "I32", "scales": "F16", "g_idx": "I32"}
_METADATA = {"format": "pt", "quantized": "gptq", "origin": "text-generation-inference"}
_WORKING_COPIES = 6  # copies of the largest Hessian that exist while a matrix is quantized


@final
@dataclass
class _Counts:
    """The squared errors of GPTQ and of rounding to nearest, and numbers of matrices."""

    error: float = 0.0
    nearest_error: float = 0.0
    num_matrices: int = 0
    num_unreached: int = 0  # matrices of experts without calibration tokens

    def add(self, other: _Counts) -> None:
        """Add the counts of a layer."""
        self.error += other.error
        self.nearest_error += other.nearest_error
        self.num_matrices += other.num_matrices
        self.num_unreached += other.num_unreached

    @property
    def text(self) -> str:
        """The counts for a report."""
        parts = [f"{self.num_matrices} matrices"]
        if self.nearest_error > 0:
            ratio = self.error / self.nearest_error
            parts.append(f"error {ratio:.3f} times that of rounding to nearest")
        if self.num_unreached:
            parts.append(
                f"{self.num_unreached} matrices of experts that no token reached were rounded to"
                " nearest"
            )
        return ", ".join(parts)


@final
@dataclass
class _Run:
    """The state of one run of the quantization."""

    job: QuantizationJob
    checkpoint: Checkpoint
    runner: LayerRunner
    writer: SafetensorsWriter
    report: Callable[[str], None]
    written: set[str] = field(default_factory=set)  # logical names of the quantized weights

    def layers(self) -> None:
        """Quantize all layers. Raises `ModelError` if there is no matrix to quantize."""
        spec, settings = self.job.spec, self.job.settings
        todo = file_order(spec, self.checkpoint)
        placements = layer_placements(todo, self.checkpoint, settings.bits)
        total, started, count = _Counts(), time.monotonic(), len(spec.decoder.layers)
        self.runner.start(self.job.sequences)
        for layer in range(count):
            self.runner.record(layer)
            own = targets_of(
                placements.get(layer, ()), self.runner.decoder.parameters, self.runner.recorder
            )
            done = _Counts()
            for group in _by_hessian(own):
                done.add(self._group(group))
            self.runner.recorder.clear()
            self.runner.advance(layer)
            seconds = time.monotonic() - started
            left = seconds / (layer + 1) * (count - layer - 1)
            self.report(f"layer {layer + 1} of {count}: {done.text}; {_duration(left)} left")
            total.add(done)
        if not total.num_matrices:
            raise ModelError(
                "The checkpoint contains no matrix that GPTQ can store with"
                f" `--bits {settings.bits}`. The format requires matrices with two dimensions, and"
                f" a multiple of {32 // math.gcd(32, settings.bits)} inputs and outputs.",
                "Serve the checkpoint with the option `--quantize int8` or `int4` instead.",
            )
        self.report(f"all layers: {total.text}")

    def _group(self, targets: list[Target]) -> _Counts:
        """Quantize the matrices that have the same inputs, and store them."""
        settings = self.job.settings
        weights = [stored_weights(target.placement, self.checkpoint) for target in targets]
        joint, hessian = torch.cat(weights), targets[0].hessian
        nearest = round_to_nearest(joint, settings)
        counts = _Counts(num_matrices=len(targets))
        quantized = nearest
        if hessian is None:
            counts.num_unreached = len(targets)
        else:
            quantized = self._solve(targets, joint, hessian.matrix)
            counts.error = product_error(joint, quantized.dequantize(), hessian.matrix)
            counts.nearest_error = product_error(joint, nearest.dequantize(), hessian.matrix)
        first = 0
        for target, matrix in zip(targets, weights, strict=True):
            self._store(target, quantized.rows(first, first + len(matrix)))
            first += len(matrix)
            self.checkpoint.release(target.placement.name)
        return counts

    def _solve(self, targets: list[Target], weights: Tensor, hessian: Tensor) -> QuantizedWeights:
        try:
            return quantize_by_gptq(weights, hessian, self.job.settings)
        except ModelError as error:
            name = targets[0].placement.name
            raise ModelError(f"`{name}`: {error.cause}", error.remedy) from error

    def _store(self, target: Target, quantized: QuantizedWeights) -> None:
        """Write a matrix, and replace its weights in the decoder by the quantized weights, so that
        the following layers are adapted to its errors.
        """
        placement = target.placement
        module = placement.name.removesuffix(".weight")
        for key, data in pack_gptq(quantized, self.job.settings.bits).items():
            self.writer.add(f"{module}.{key}", _DTYPES[key], data.shape, data)
        self.written.add(placement.name)
        whole = quantized.dequantize()
        stored = whole.T if placement.rule.transposed else whole
        for parameter, piece in split(stored, placement, self.job.spec).items():
            self.runner.decoder.write(parameter, placement.expert, axis=0, start=0, piece=piece)

    def others(self) -> None:
        """Copy all tensors that are not quantized."""
        for name, mapped in self.checkpoint.mapped.items():
            if name not in self.written:
                stored = mapped.stored
                self.writer.add(name, stored.dtype, stored.shape, stored_array(mapped))
                self.checkpoint.release(name)

    def excluded(self) -> list[str]:
        """Return the modules of the layers with a matrix that is not quantized."""
        return sorted(
            placement.name.removesuffix(".weight")
            for placement in file_order(self.job.spec, self.checkpoint)
            if placement.name.endswith(".weight")
            and placement.name not in self.written
            and ".layers." in placement.parameters[0]
            and len(self.checkpoint.mapped[placement.name].stored.shape) > 1
        )


def quantize_checkpoint(
    job: QuantizationJob, report: Callable[[str], None], free_bytes: int
) -> None:
    """Write the quantized weights and config.json to `job.output`. See `Quantizer.quantize`."""
    _check_spec(job)
    with open_checkpoint(job.model_path) as checkpoint, torch.inference_mode():
        is_bfloat16 = main_dtype_of(checkpoint.tensors, job.model_path) == "BF16"
        dtype = torch.bfloat16 if is_bfloat16 else torch.float32
        _check_resources(job, checkpoint, dtype, free_bytes)
        runner = LayerRunner(job.spec, dtype, max(map(len, job.sequences)))
        load_weights(runner.decoder, job.model_path, lambda done, total: None)
        num_tokens = sum(map(len, job.sequences))
        report(f"calibration text: {num_tokens} tokens in {len(job.sequences)} sequences")
        writer = SafetensorsWriter(
            job.output,
            max_file_bytes=_MAX_FILE_BYTES,
            max_header_bytes=1024
            + sum(_MAX_PARTS * (len(name.encode()) + _ENTRY_BYTES) for name in checkpoint.mapped),
            metadata=_METADATA,
        )
        run = _Run(job, checkpoint, runner, writer, report)
        try:
            run.layers()
            run.others()
            writer.finish()
        except OSError as error:
            raise BackendError(
                f"The quantized weights cannot be written to `{job.output}`: {error.strerror}.",
                "Name a folder on a disk with enough free space.",
            ) from error
        finally:
            writer.close()
        _write_config(job, run.excluded())


def _check_spec(job: QuantizationJob) -> None:
    if any(stack.kind == "encoder" for stack in job.spec.stacks):
        raise ModelError(
            f"The architecture {job.spec.model_type} has an encoder. `tgi quantize` supports only"
            " models without an encoder.",
            "Serve the model with the option `--quantize int8` or `int4` instead.",
        )
    vocabulary = job.spec.vocab_size
    highest = max(int(ids.max()) for ids in job.sequences)
    if highest >= vocabulary:
        raise ModelError(
            f"The tokenizer produced the token id {highest}, but the vocabulary of the model has"
            f" {vocabulary} entries.",
            "Check that the tokenizer and the weights belong to the same model.",
        )


def _check_resources(
    job: QuantizationJob, checkpoint: Checkpoint, dtype: torch.dtype, free_bytes: int
) -> None:
    """Raise `BackendError` if the memory or the disk space is not sufficient."""
    layers = layer_placements(file_order(job.spec, checkpoint), checkpoint, job.settings.bits)
    shapes = {
        layer: [oriented_shape(placement, checkpoint) for placement in placements]
        for layer, placements in layers.items()
    }
    hessians = max((sum(4 * n * n for _, n in own) for own in shapes.values()), default=0)
    largest = max((4 * n * n for own in shapes.values() for _, n in own), default=0)
    num_tokens = sum(map(len, job.sequences))
    memory = (
        weights_bytes(job.spec, str(dtype).removeprefix("torch."))
        + hessians
        + _WORKING_COPIES * largest
        + 2 * num_tokens * job.spec.hidden_size * dtype.itemsize
    )
    if memory > free_bytes:
        raise BackendError(
            f"GPTQ needs about {memory / 1e9:.1f} GB of memory for this model, but only"
            f" {free_bytes / 1e9:.1f} GB are free.",
            "Use a machine with more memory.",
        )
    settings = job.settings
    quantized = {placement.name for own in layers.values() for placement in own}
    disk = sum(
        packed_bytes(*shape, settings.bits, settings.group_size)
        for own in shapes.values()
        for shape in own
    ) + sum(
        mapped.stored.num_bytes
        for name, mapped in checkpoint.mapped.items()
        if name not in quantized
    )
    free = shutil.disk_usage(job.output).free
    if disk > free:
        raise BackendError(
            f"The quantized checkpoint needs about {disk / 1e9:.1f} GB, but the disk of"
            f" `{job.output.parent}` has only {free / 1e9:.1f} GB of free space.",
            "Name a folder on another disk.",
        )


def _by_hessian(targets: list[Target]) -> Iterator[list[Target]]:
    """Group the matrices with the same inputs, which have the same Hessian."""
    groups: dict[int, list[Target]] = {}
    for target in targets:
        if target.hessian is None:
            yield [target]
        else:
            groups.setdefault(target.hessian.address, []).append(target)
    yield from groups.values()


def _write_config(job: QuantizationJob, excluded: list[str]) -> None:
    """Write config.json with the settings of the quantization."""
    config = read_json_object(job.model_path / "config.json")
    config["quantization_config"] = quantization_config(job.settings, excluded)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (job.output / "config.json").write_text(text, encoding="utf-8")


def quantization_config(settings: GptqSettings, excluded: list[str]) -> dict[str, object]:
    """Return the section of config.json. The names of its fields are those of AutoGPTQ and TGI, and
    `dynamic` is the field of GPTQModel for modules that are not quantized.
    """
    section: dict[str, object] = {
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        "bits": settings.bits,
        "group_size": settings.group_size or -1,
        "damp_percent": settings.damping,
        "desc_act": settings.has_order,
        "static_groups": not settings.has_order,
        "sym": settings.is_symmetric,
        "true_sequential": False,
        "lm_head": False,
    }
    if excluded:
        section["dynamic"] = {f"-:{_pattern(module)}": {} for module in excluded}
    return section


def _pattern(module: str) -> str:
    return "^" + module.replace(".", r"\.") + "$"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes else f"about {seconds:.0f} s"
