"""Checks of quantized weights: accuracy, memory, and rejected checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tgi.backend import QUANTIZATION_MEANINGS, BackendError, ModelError, SamplingParams
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.models import TinyModel
from tgi.testing.conformance.require import CheckFailedError, not_applicable, require
from tgi.testing.conformance.scripted_core import ScriptedCore
from tgi.worker.cache_format import CACHE_FORMATS
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

_GREATEST_ERROR_OF_NAME: Mapping[str, float] = MappingProxyType(
    {"bitsandbytes-fp4": 0.7, "fp8": 0.25}
)
"""The maximum error of floating-point codes, which represent large weights less accurately than
integers with the same number of bits.
"""

_GREATEST_CACHE_ERROR: Mapping[str, float] = MappingProxyType(
    {"fp8_e4m3fn": 0.15, "fp8_e5m2": 0.3, "int8": 0.05}
)
"""Maps the values of `--kv-cache-dtype` to the same error."""

_GREATEST_CACHE_SHARE = 0.75  # of the bytes of the unquantized cache; scales need memory, too
# Rounding errors of another order of computation can change the code of a number.
_GREATEST_CONTINUATION_ERROR = 0.05
_OUTPUT_TOKENS = 6
_WEIGHTS_ITEM = "weights"
_CACHE_ITEM = "KV cache of one token"
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
        error = _error(under_test, model, quantize=name)
        limit = _greatest_error(name)
        require(
            error <= limit,
            f"the error of `{name}` is {error:.3f} standard deviations; the limit is {limit}",
        )
        whole, quantized = (
            _item_bytes(under_test, model, _WEIGHTS_ITEM),
            _item_bytes(under_test, model, _WEIGHTS_ITEM, quantize=name),
        )
        require(
            quantized < whole,
            f"the weights have {quantized} bytes with `{name}` and {whole} bytes without it",
        )


def _error(under_test: BackendUnderTest, model: TinyModel, **changes: Any) -> float:  # noqa: ANN401 - fields
    """Return the error of the prompt scores. `changes` are fields of `EngineConfig`."""
    with under_test.serving(model, **changes) as core:
        sequence = core.add(prompt_of(60), SamplingParams(prompt_logprobs=True))
        core.generate([sequence], 1)
        positions = sorted(sequence.prompt_scores)
        require(
            positions == list(range(1, 60)),
            f"`{' '.join(changes.values())}` returned prompt scores of positions {positions}",
        )
        scores = np.array([sequence.prompt_scores[position] for position in positions])
    logits = model.logits(sequence.prompt).astype(np.float64)
    expected = np.array(
        [log_softmax(logits[position - 1])[sequence.prompt[position]] for position in positions]
    )
    return float(np.sqrt(np.mean((scores - expected) ** 2)) / logits.std())


def _greatest_error(name: str) -> float:
    return _GREATEST_ERROR_OF_NAME.get(name, _GREATEST_ERROR[_BITS[name]])


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
            error = _error(under_test, model, quantize=name)
        except (ModelError, BackendError):
            continue
        limit = _greatest_error(name)
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


def _caches(under_test: BackendUnderTest) -> None:
    """Compare the prompt scores with each supported format of the cache with the scores of the
    reference, and the scores after a prefix hit and after a preemption with those of a full
    computation.
    """
    model = under_test.models.get("llama", **_CONFIG)
    names = [name for name in CACHE_FORMATS if under_test.supports(model, kv_cache_dtype=name)]
    not_applicable(not names, "no value of `--kv-cache-dtype` is supported")
    agreement = under_test.agreement()
    not_applicable(
        not (agreement.has("prompt_logprobs") and agreement.has("logprobs")),
        "the check needs scores of the prompt and of the output, which were not negotiated",
    )
    whole = _item_bytes(under_test, model, _CACHE_ITEM)
    for name in names:
        error, limit = _error(under_test, model, kv_cache_dtype=name), _GREATEST_CACHE_ERROR[name]
        require(
            error <= limit,
            f"the error of `{name}` is {error:.3f} standard deviations; the limit is {limit}",
        )
        coded = _item_bytes(under_test, model, _CACHE_ITEM, kv_cache_dtype=name)
        require(
            coded <= _GREATEST_CACHE_SHARE * whole,
            f"a token of the KV cache has {coded} bytes with `{name}` and {whole} bytes without it",
        )
        with under_test.serving(model, kv_cache_dtype=name) as core:
            _compare_continuations(core, name)


def _compare_continuations(core: ScriptedCore, name: str) -> None:
    """Continue a sequence after a preemption and, if it was negotiated, after a prefix hit."""
    size = core.agreement.kv_cache.block_size
    sampling, prompt = SamplingParams(logprobs="raw"), prompt_of(size + size // 2 + 3)
    full = core.add(prompt, sampling)
    core.generate([full], _OUTPUT_TOKENS)
    shared = {"blocks": full.blocks[:1], "num_computed_tokens": size}
    starts: dict[str, dict[str, Any]] = {"a preemption": {"output": full.output[:2]}}
    if core.agreement.has("prefix_cache"):
        starts["a prefix hit"] = shared
    for reason, start in starts.items():
        again = core.add(prompt, sampling, **start)
        num_given = len(start.get("output", ()))
        core.generate([again], _OUTPUT_TOKENS - num_given)
        core.drop(again)
        outputs = zip(again.output, full.output, strict=True)
        equal = next((i for i, (a, b) in enumerate(outputs) if a != b), _OUTPUT_TOKENS)
        scores, expected = again.logprobs, full.logprobs[num_given:]
        count = min(equal + 1, _OUTPUT_TOKENS) - num_given
        errors = np.abs(np.array(scores[:count]) - np.array(expected[:count]))
        require(
            float(errors.max(initial=0.0)) <= _GREATEST_CONTINUATION_ERROR,
            f"with `{name}`, log probabilities after {reason} differ by {errors.max():.4f} from"
            f" those of a full computation; the limit is {_GREATEST_CONTINUATION_ERROR}",
        )
    core.drop(full)


def _item_bytes(
    under_test: BackendUnderTest,
    model: TinyModel,
    label: str,
    **changes: Any,  # noqa: ANN401 - fields
) -> int:
    memory = under_test.backend.supports(model.spec, under_test.config(model, **changes)).memory
    return next((item.num_bytes for item in memory if item.label == label), 0)


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
    Check(
        "C-36d",
        "serving",
        "a KV cache in 8 bits is accurate, takes less memory, and is shared and recomputed",
        _caches,
    ),
)
