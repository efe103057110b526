"""Checks of the model: families, positions, windows, causality, NaN and checkpoint formats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tgi.backend import SamplingParams
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import check_sequence, check_sequences
from tgi.testing.conformance.models import TinyModel
from tgi.testing.conformance.require import CheckFailedError, not_applicable, require
from tgi.testing.conformance.scripted_core import ScriptedCore
from tgi.testing.tiny_models import ENCODER_DECODERS, FAMILIES

__all__ = ["CHECKS"]

_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
_LINEAR = {"rope_type": "linear", "factor": 2.0}
_NAN_TOKEN = 300
_MIN_TOKENS = 60  # length of a sequence at which every rope scaling has an effect


def _sampling(core: ScriptedCore) -> SamplingParams:
    return SamplingParams(logprobs="raw" if core.agreement.has("logprobs") else "none")


def _serve(
    under_test: BackendUnderTest, model: TinyModel, lengths: Sequence[int], count: int = 6
) -> None:
    with under_test.serving(model) as core:
        for length in lengths:
            sequence = core.add(prompt_of(length), _sampling(core))
            core.generate([sequence], count)
            check_sequence(model, sequence, core.agreement)
            core.drop(sequence)


def _families(under_test: BackendUnderTest) -> None:
    models = {family: under_test.models.get(family) for family in FAMILIES}
    served = {family: model for family, model in models.items() if under_test.supports(model)}
    require(bool(served), "no family of the suite is supported")
    for family, model in served.items():
        try:
            _serve(under_test, model, (1, 17, 90))
        except CheckFailedError as error:
            require(False, f"{family}: {error}")


def _positions(under_test: BackendUnderTest) -> None:
    kinds: dict[str, dict[str, Any]] = {"llama3": _LLAMA3, "yarn": _YARN, "linear": _LINEAR}
    models = {
        name: under_test.models.get("llama", rope_scaling=rule) for name, rule in kinds.items()
    }
    served = {name: model for name, model in models.items() if under_test.supports(model)}
    for name, model in served.items():
        try:
            _serve(under_test, model, (3, _MIN_TOKENS, 120))
        except CheckFailedError as error:
            require(False, f"with the rope scaling `{name}`, {error}")
    not_applicable(not served, "no rope scaling is supported")


def _encoder_decoder(under_test: BackendUnderTest) -> None:
    """The batch contains texts of different lengths. The encoder runs again after a preemption."""
    models = [under_test.models.get(family) for family in ENCODER_DECODERS]
    served = [model for model in models if under_test.supports(model)]
    not_applicable(not served, "no model with an encoder is supported")
    for model in served:
        with under_test.serving(model) as core:
            lengths = (1, 7, 16, 33, 100)[: core.agreement.limits.max_sequences]
            sequences = [
                core.add([0], _sampling(core), encoder_tokens=prompt_of(n, seed=n)) for n in lengths
            ]
            core.generate(sequences, 5)
            check_sequences(model, sequences, core.agreement)
            core.drop(*sequences)
            again = [
                core.add(
                    s.prompt, _sampling(core), output=s.output, encoder_tokens=s.encoder_tokens
                )
                for s in reversed(sequences)
            ]
            core.generate(again, 4)
            check_sequences(model, again, core.agreement)


def _window(under_test: BackendUnderTest) -> None:
    model = under_test.models.get("mistral", sliding_window=8)
    not_applicable(not under_test.supports(model), "window attention is not supported")
    _serve(under_test, model, (1, 7, 8, 9, 33))


def _causality(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    not_applicable(
        not core.agreement.has("prompt_logprobs"),
        "the check needs prompt scores, which were not negotiated",
    )
    prompt = prompt_of(30)
    first = core.add(prompt, SamplingParams(prompt_logprobs=True))
    core.generate([first], 1)
    core.drop(first)
    second = core.add([*prompt[:20], *prompt_of(10, seed=9)], SamplingParams(prompt_logprobs=True))
    core.generate([second], 1)
    for position in range(1, 20):
        before, now = first.prompt_scores[position], second.prompt_scores[position]
        require(
            abs(before - now) < 1e-3,
            f"the score at position {position} changed with a later token: {before}, {now}",
        )


def _nan(under_test: BackendUnderTest) -> None:
    model = under_test.models.poisoned(_NAN_TOKEN)
    with under_test.serving(model) as core:
        not_applicable(
            core.agreement.limits.max_sequences < 2, "only one concurrent sequence was negotiated"
        )
        healthy = core.add([token for token in prompt_of(12) if token != _NAN_TOKEN])
        core.generate([healthy], 1)
        ill = core.add([5, 6, _NAN_TOKEN, 7])
        core.advance({healthy: 0, ill: 0})
        require(bool(ill.error), "NaN logits led to a token instead of a `RowError`")
        core.drop(ill)
        other = core.add(prompt_of(5, seed=3))
        core.generate([healthy, other], 3)
        check_sequences(model, [healthy, other], core.agreement)


def _checkpoints(under_test: BackendUnderTest) -> None:
    for model in (
        under_test.models.get("llama", tie_word_embeddings=False),
        under_test.models.sharded(),
    ):
        _serve(under_test, model, (11,))


def _half_precision(under_test: BackendUnderTest) -> None:
    """The tolerance is a multiple of the error that the reference has in the negotiated dtype."""
    for dtype in ("bfloat16", "float16"):
        model = under_test.models.get("llama", dtype=dtype)
        if not under_test.supports(model):
            continue
        try:
            _serve(under_test, model, (1, 33, 100))
        except CheckFailedError as error:
            require(False, f"a checkpoint in {dtype}: {error}")


CHECKS: Sequence[Check] = (
    Check("C-31", "basic", "every supported family matches the reference", _families),
    Check("C-38", "basic", "untied heads and checkpoints of several files load", _checkpoints),
    Check(
        "C-38b",
        "basic",
        "checkpoints in 16 bits load, and match within the accuracy of the dtype",
        _half_precision,
    ),
    Check(
        "C-32",
        "serving",
        "positions and rope scaling match the reference in long contexts",
        _positions,
    ),
    Check("C-33", "serving", "tokens beyond the window have no influence", _window),
    Check("C-34", "serving", "later tokens have no influence", _causality),
    Check("C-35", "serving", "NaN in one row is an error of that row only", _nan),
    Check(
        "C-59a",
        "serving",
        "a model with an encoder matches the reference, even after preemption",
        _encoder_decoder,
    ),
)
