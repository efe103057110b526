"""Checks of quantized weights: accuracy, memory, and rejected checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from safetensors.numpy import load_file, save_file

from tgi.backend import QUANTIZATION_MEANINGS, BackendError, ModelError, SamplingParams
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.models import TinyModel
from tgi.testing.conformance.require import CheckFailedError, not_applicable, require
from tgi.worker.sampling import log_softmax

__all__ = ["CHECKS"]

_BITS: Mapping[str, int] = MappingProxyType(
    {
        name: meaning.weight_bits
        for name, meaning in sorted(QUANTIZATION_MEANINGS.items())
        if meaning.weight_bits is not None and not meaning.reads_checkpoint
    }
)
"""Values of `--quantize` that quantize an unquantized checkpoint, and the bits of a weight."""

_GREATEST_ERROR: Mapping[int, float] = MappingProxyType({4: 0.5, 8: 0.1})
"""Maps the number of bits per weight to the maximum error of a tiny model's log probabilities.

The error is the root mean square error, divided by the standard deviation.
"""

_WEIGHTS_ITEM = "weights"
_CODED = "model.layers.1.mlp.up_proj.weight"  # the tensor that contains codes
# The sizes are large enough for groups of 128, and the weights in a group have similar magnitudes.
_CONFIG = MappingProxyType(
    {"hidden_size": 128, "intermediate_size": 256, "tie_word_embeddings": False}
)
_ODD_CONFIG = MappingProxyType(
    {"hidden_size": 40, "intermediate_size": 72, "tie_word_embeddings": False}
)


def _formats(under_test: BackendUnderTest) -> None:
    """Compare the prompt scores of each supported format with the prompt scores of the unquantized
    weights.
    """
    model = under_test.models.get("llama", **_CONFIG)
    names = [name for name in _BITS if under_test.supports(model, quantize=name)]
    not_applicable(not names, "quantization of unquantized checkpoints is not supported")
    not_applicable(
        not under_test.agreement().has("prompt_logprobs"),
        "the check needs prompt scores, which were not negotiated",
    )
    for name in names:
        error = _error(under_test, model, name)
        limit = _GREATEST_ERROR[_BITS[name]]
        require(
            error <= limit,
            f"the error of `{name}` is {error:.3f} standard deviations; the limit is {limit}",
        )
        whole, quantized = (
            _weights_bytes(under_test, model, None),
            _weights_bytes(under_test, model, name),
        )
        require(
            quantized < whole,
            f"the weights have {quantized} bytes with `{name}` and {whole} bytes without it",
        )


def _error(under_test: BackendUnderTest, model: TinyModel, name: str) -> float:
    with under_test.serving(model, quantize=name) as core:
        sequence = core.add(prompt_of(60), SamplingParams(prompt_logprobs=True))
        core.generate([sequence], 1)
        positions = sorted(sequence.prompt_scores)
        require(
            positions == list(range(1, 60)),
            f"`{name}` returned prompt scores of positions {positions}",
        )
        scores = np.array([sequence.prompt_scores[position] for position in positions])
    logits = model.logits(sequence.prompt).astype(np.float64)
    expected = np.array(
        [log_softmax(logits[position - 1])[sequence.prompt[position]] for position in positions]
    )
    return float(np.sqrt(np.mean((scores - expected) ** 2)) / logits.std())


def _odd_sizes(under_test: BackendUnderTest) -> None:
    """A model whose sizes are not multiples of the group size is either accurate, or rejected with
    a reason.
    """
    plain = under_test.models.get("llama", **_CONFIG)
    names = [name for name in _BITS if under_test.supports(plain, quantize=name)]
    not_applicable(not names, "quantization of unquantized checkpoints is not supported")
    not_applicable(
        not under_test.agreement().has("prompt_logprobs"),
        "the check needs prompt scores, which were not negotiated",
    )
    model = under_test.models.get("llama", **_ODD_CONFIG)
    for name in names:
        support = under_test.backend.supports(model.spec, under_test.config(model, quantize=name))
        if support.status == "no":
            require(any(support.reasons), f"`{name}` rejects a model of odd sizes without a reason")
            continue
        try:
            error = _error(under_test, model, name)
        except (ModelError, BackendError):
            continue
        limit = _GREATEST_ERROR[_BITS[name]]
        require(
            error <= limit,
            f"with odd sizes, the error of `{name}` is {error:.3f} standard deviations; the limit"
            f" is {limit}",
        )


def _codes_without_scales(under_test: BackendUnderTest) -> None:
    """Integers in place of weights are codes without scales. Such codes must not be loaded as
    weights.
    """
    model = under_test.models.get("llama", tie_word_embeddings=False)
    path = model.copy_to(under_test.folder / "codes")
    file = path / "model.safetensors"
    tensors = load_file(file)
    weight = tensors[_CODED]
    tensors[_CODED] = np.round(weight * (127 / np.abs(weight).max())).astype(np.int8)
    save_file(tensors, file, metadata={"format": "pt"})
    for name in (None, *(name for name in _BITS if under_test.supports(model, quantize=name))):
        worker = under_test.worker(model, path=path, quantize=name)
        try:
            worker.load()
        except ModelError as error:
            is_named = _CODED in str(error) or file.name in str(error)
            require(
                is_named,
                f"the error of codes without scales names neither file nor tensor: {error}",
            )
        else:
            raise CheckFailedError(
                f"codes without scales were loaded as weights (`--quantize {name}`)"
            )
        finally:
            worker.close()


def _weights_bytes(under_test: BackendUnderTest, model: TinyModel, name: str | None) -> int:
    memory = under_test.backend.supports(model.spec, under_test.config(model, quantize=name)).memory
    return next((item.num_bytes for item in memory if item.label == _WEIGHTS_ITEM), 0)


CHECKS: Sequence[Check] = (
    Check(
        "C-36a",
        "serving",
        "weights quantized while loading are accurate and take less memory",
        _formats,
    ),
    Check(
        "C-36b", "serving", "sizes that groups do not divide are accurate, or rejected", _odd_sizes
    ),
    Check("C-36c", "serving", "codes without scales are rejected", _codes_without_scales),
)
