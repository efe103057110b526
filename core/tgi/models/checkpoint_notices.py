"""Reports the tensors of a checkpoint that the model does not use, for the log at startup."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from tgi.architectures import ModelSpec
from tgi.architectures.left_over import plain_name
from tgi.architectures.weight_map import (
    Placement,
    left_over_names,
    placements,
    second_heads,
)
from tgi.checkpoints.checkpoint import LogicalTensors
from tgi.checkpoints.exceptions import unquantized_modules
from tgi.checkpoints.safetensors_file import MappedTensor, close_files, map_checkpoint
from tgi.errors import ModelError

__all__ = ["checkpoint_notices"]

_MAX_LISTED = 3  # names in a line
_NUM_SAMPLES = 64  # positions at which two tensors are compared
_SAMPLE_BYTES = 4096


def checkpoint_notices(folder: Path, spec: ModelSpec, tensors: LogicalTensors) -> tuple[str, ...]:
    """Return log lines about the quantization of the checkpoint, and about the tensors that are
    skipped when the model is loaded. The result is empty if the checkpoint cannot be loaded,
    because the worker reports this error.
    """
    names = tensors.shapes.keys()
    try:
        resolved = placements(spec, names, lambda _: True)
    except ModelError:
        return ()
    plain = tensors.plain.keys()
    return (
        *_quantization(tensors),
        *_left_over(left_over_names(spec, names, resolved)),
        *_other_heads(folder, resolved, second_heads(spec, names) & plain, plain),
    )


def _quantization(tensors: LogicalTensors) -> Iterator[str]:
    """Yield a line about the format of a quantized checkpoint, and the matrices that are not
    quantized.
    """
    if tensors.format is None:
        return
    exceptions = unquantized_modules(tensors)
    rest = f", all matrices except {_some(list(exceptions))}" if exceptions else ", all matrices"
    formats = ", ".join(sorted({tensor.format.name for tensor in tensors.quantized.values()}))
    yield f"The checkpoint is quantized: {tensors.format.description}{rest} ({formats})."


def _left_over(names: list[str]) -> Iterator[str]:
    if names:
        yield (
            f"The checkpoint contains {len(names)} tensor{'s' * (len(names) > 1)} that the model"
            f" does not need: {_some(names)}. {'They are' if len(names) > 1 else 'It is'} skipped."
        )


def _other_heads(
    folder: Path, resolved: list[Placement], heads: set[str], plain: Collection[str]
) -> Iterator[str]:
    """Yield a line for a stored head that is not the embedding, in a model that uses the embedding
    as head. `plain` are the names of the tensors that are not quantized.
    """
    if not heads:
        return
    embedding = next(
        (
            item.name
            for item in resolved
            if item.parameters == ("embedding.weight",) and item.name in plain
        ),
        None,
    )
    tensors = map_checkpoint(folder)
    try:
        for head in sorted(heads):
            if embedding is not None and _differ(tensors[head], tensors[embedding]):
                yield (
                    f"The checkpoint stores a head (`{plain_name(head)}`) that differs from the"
                    " embedding, but config.json sets `tie_word_embeddings`. The stored head is not"
                    " used. If the model was trained with its own head, set `tie_word_embeddings`"
                    " to false."
                )
    finally:
        close_files(tensors)


def _differ(first: MappedTensor, second: MappedTensor) -> bool:
    """Whether samples of the bytes of two tensors differ."""
    size = first.stored.num_bytes
    if size != second.stored.num_bytes:
        return True
    step = max(1, size // _NUM_SAMPLES)
    return any(_sample(first, start) != _sample(second, start) for start in range(0, size, step))


def _sample(tensor: MappedTensor, start: int) -> bytes:
    stop = min(start + _SAMPLE_BYTES, tensor.stored.num_bytes)
    first = tensor.stored.start
    return tensor.file.mapping[first + start : first + stop]


def _some(names: list[str]) -> str:
    listed = ", ".join(f"`{name}`" for name in names[:_MAX_LISTED])
    return listed if len(names) <= _MAX_LISTED else f"{listed} and {len(names) - _MAX_LISTED} more"
