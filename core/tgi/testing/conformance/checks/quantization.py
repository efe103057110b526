"""Checks of quantized weights: the model stays the model and takes less memory; what cannot be read
is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from safetensors.numpy import load_file, save_file

from tgi.backend import BackendError, ModelError, SamplingParams
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check, CheckFailedError, not_applicable, require
from tgi.testing.conformance.models import TinyModel
from tgi.worker.sampling import log_softmax

__all__ = ["CHECKS"]

_BITS: Mapping[str, int] = MappingProxyType(
    {
        "bitsandbytes": 8,
        "bitsandbytes-fp4": 4,
        "bitsandbytes-nf4": 4,
        "eetq": 8,
        "fp8": 8,
        "int4": 4,
        "int8": 8,
    }
)
"""Values of `--quantize` that need no checkpoint of their own, and the bits of a weight."""

_GREATEST_ERROR: Mapping[int, float] = MappingProxyType({4: 0.5, 8: 0.1})
"""Root mean square error of a tiny model's log probabilities over their standard deviation, by the
bits of a weight.
"""

_WEIGHTS_ITEM = "weights"
_CODED = "model.layers.1.mlp.up_proj.weight"  # the tensor that holds codes
# Wide enough for groups of 128, and with weights that a group's largest one does not dwarf.
_CONFIG = MappingProxyType(
    {"hidden_size": 128, "intermediate_size": 256, "tie_word_embeddings": False}
)
_ODD_CONFIG = MappingProxyType(
    {"hidden_size": 40, "intermediate_size": 72, "tie_word_embeddings": False}
)


def _formats(under_test: BackendUnderTest) -> None:
    """Scores of a prompt under each format that is supported, beside those of the whole weights."""
    model = under_test.models.get("llama", **_CONFIG)
    names = [name for name in _BITS if under_test.supports(model, quantize=name)]
    not_applicable(not names, "no quantization of plain checkpoints is supported")
    not_applicable(
        not under_test.agreement().has("prompt_logprobs"),
        "only prompt scores could show it, and they were not agreed",
    )
    for name in names:
        error = _error(under_test, model, name)
        limit = _GREATEST_ERROR[_BITS[name]]
        require(
            error <= limit, f"`{name}`: an error of {error:.3f} standard deviations, above {limit}"
        )
        whole, quantized = (
            _weights_bytes(under_test, model, None),
            _weights_bytes(under_test, model, name),
        )
        require(
            quantized < whole,
            f"`{name}`: weights of {quantized} bytes are told, {whole} without it",
        )


def _error(under_test: BackendUnderTest, model: TinyModel, name: str) -> float:
    with under_test.serving(model, quantize=name) as core:
        sequence = core.add(prompt_of(60), SamplingParams(prompt_logprobs=True))
        core.generate([sequence], 1)
        positions = sorted(sequence.prompt_scores)
        require(
            positions == list(range(1, 60)), f"`{name}`: prompt scores of positions {positions}"
        )
        given = np.array([sequence.prompt_scores[position] for position in positions])
    logits = model.logits(sequence.prompt).astype(np.float64)
    expected = np.array(
        [log_softmax(logits[position - 1])[sequence.prompt[position]] for position in positions]
    )
    return float(np.sqrt(np.mean((given - expected) ** 2)) / logits.std())


def _odd_sizes(under_test: BackendUnderTest) -> None:
    """Sizes that no group divides: served as well as others, or refused with a reason."""
    plain = under_test.models.get("llama", **_CONFIG)
    names = [name for name in _BITS if under_test.supports(plain, quantize=name)]
    not_applicable(not names, "no quantization of plain checkpoints is supported")
    not_applicable(
        not under_test.agreement().has("prompt_logprobs"),
        "only prompt scores could show it, and they were not agreed",
    )
    model = under_test.models.get("llama", **_ODD_CONFIG)
    for name in names:
        support = under_test.backend.supports(model.spec, under_test.config(model, quantize=name))
        if support.status == "no":
            require(any(support.reasons), f"`{name}` refuses a model of odd sizes without a reason")
            continue
        try:
            error = _error(under_test, model, name)
        except (ModelError, BackendError):
            continue
        limit = _GREATEST_ERROR[_BITS[name]]
        require(
            error <= limit,
            f"`{name}` of odd sizes: an error of {error:.3f} standard deviations, above {limit}",
        )


def _codes_without_scales(under_test: BackendUnderTest) -> None:
    """Integers where weights should be are codes whose scales are missing: nobody may take them for
    numbers.
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
        "weights quantized on loading stay near the whole ones, and take less memory",
        _formats,
    ),
    Check(
        "C-36b", "serving", "sizes that no group divides are served well, or refused", _odd_sizes
    ),
    Check("C-36c", "serving", "codes without their scales are refused", _codes_without_scales),
)
