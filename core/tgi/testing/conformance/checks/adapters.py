"""Checks of LoRA adapters: their effect, other sequences, and rejected requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tgi.backend import CONTROLS, SamplingParams
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import check_sequence, check_sequences
from tgi.testing.conformance.models import TinyModel
from tgi.testing.conformance.require import not_applicable, require
from tgi.testing.conformance.scripted_core import ScriptedCore

__all__ = ["CHECKS"]

_FIRST, _SECOND, _UNKNOWN = 7, 3, 5  # adapter numbers may have any order
_PROMPT = 21


def _make_adapters(
    under_test: BackendUnderTest, core: ScriptedCore
) -> tuple[list[Path], list[TinyModel]]:
    """Three adapters for the plain model, and the reference model of each."""
    model, rank = under_test.models.get(), min(4, core.agreement.limits.max_adapter_rank)
    layers = (
        ("q_proj", "v_proj"),
        ("q_proj", "v_proj"),
        ("o_proj", "k_proj", "gate_proj", "up_proj", "down_proj"),
    )
    paths = [
        model.write_adapter(
            under_test.folder / f"adapter-{seed}", targets=targets, rank=rank, seed=seed
        )
        for seed, targets in enumerate(layers, 1)
    ]
    return paths, [model.merged(path) for path in paths]


def _sampling(core: ScriptedCore) -> SamplingParams:
    return SamplingParams(logprobs="raw" if core.agreement.has("logprobs") else "none")


def _require_lora(under_test: BackendUnderTest, num_adapters: int = 1) -> None:
    agreement = under_test.agreement()
    not_applicable(not agreement.has("lora"), "`lora` was not negotiated")
    most = agreement.limits.max_adapters
    require(min(most, agreement.limits.max_adapter_rank) >= 1, "`lora` with a maximum of 0")
    not_applicable(most < num_adapters, f"{most} concurrent adapters were negotiated")


def _mixed_adapters(under_test: BackendUnderTest) -> None:
    """One step runs the same prompt with one adapter, with another and with none."""
    _require_lora(under_test, 2)
    base = under_test.models.get()
    with under_test.serving(base) as core:
        paths, models = _make_adapters(under_test, core)
        for number, path in zip((_FIRST, _SECOND), paths, strict=False):
            core.must_control("adapter_load", adapter=number, path=path)
        owners = [
            (0, base),
            (_FIRST, models[0]),
            (_SECOND, models[1]),
            (0, base),
            (_FIRST, models[0]),
        ]
        owners = owners[: core.agreement.limits.max_sequences]
        sequences = [
            core.add(prompt_of(_PROMPT), _sampling(core), adapter=number) for number, _ in owners
        ]
        core.generate(sequences, 5)
        for sequence, (_, model) in zip(sequences, owners, strict=True):
            check_sequence(model, sequence, core.agreement)
        core.drop(*sequences)
        again = core.add(
            sequences[1].prompt, _sampling(core), output=sequences[1].output, adapter=_FIRST
        )
        core.generate([again], 3)
        check_sequence(models[0], again, core.agreement)


def _changing_adapters(under_test: BackendUnderTest) -> None:
    """Adapters are loaded and unloaded while other sequences run.

    A reused adapter number contains no old weights.
    """
    _require_lora(under_test, 2)
    base = under_test.models.get()
    with under_test.serving(base) as core:
        paths, models = _make_adapters(under_test, core)
        core.must_control("adapter_load", adapter=_FIRST, path=paths[0])
        count = min(2, core.agreement.limits.max_sequences - 1)
        not_applicable(count < 1, "only one concurrent sequence was negotiated")
        running = [
            core.add(prompt_of(9, seed=i), _sampling(core), adapter=(_FIRST, 0)[i])
            for i in range(count)
        ]
        core.generate(running, 2)
        for path, model in zip(paths[1:], models[1:], strict=True):
            core.must_control("adapter_load", adapter=_SECOND, path=path)
            guest = core.add(prompt_of(_PROMPT), _sampling(core), adapter=_SECOND)
            core.generate([guest, *running], 3)
            check_sequence(model, guest, core.agreement)
            core.drop(guest)
            core.run(core.build({}))
            core.must_control("adapter_unload", adapter=_SECOND)
            core.generate(running, 2)
        for sequence, model in zip(running, (models[0], base), strict=False):
            check_sequence(model, sequence, core.agreement)


def _unknown_adapter(under_test: BackendUnderTest) -> None:
    """A sequence fails alone if its adapter was never loaded, or is no longer loaded."""
    _require_lora(under_test)
    with under_test.serving(under_test.models.get()) as core:
        not_applicable(
            core.agreement.limits.max_sequences < 2, "only one concurrent sequence was negotiated"
        )
        paths, _ = _make_adapters(under_test, core)
        core.must_control("adapter_load", adapter=_FIRST, path=paths[0])
        core.must_control("adapter_unload", adapter=_FIRST)
        bystander = core.add(prompt_of(6), _sampling(core))
        core.generate([bystander], 1)
        for number in (_UNKNOWN, _FIRST):
            lost = core.add(prompt_of(8), adapter=number)
            core.advance({bystander: 0, lost: 0})
            require(
                bool(lost.error),
                f"adapter {number} is not loaded, but its sequence got tokens {lost.output}",
            )
            core.drop(lost)
        core.generate([bystander], 2)
        check_sequences(under_test.models.get(), [bystander], core.agreement)


def _refused_adapters(under_test: BackendUnderTest) -> None:
    """Used numbers, too many adapters, too high a rank and wrong folders are rejected."""
    _require_lora(under_test)
    model = under_test.models.get()
    with under_test.serving(model) as core:
        limits = core.agreement.limits
        paths, _ = _make_adapters(under_test, core)
        foreign = under_test.models.get("llama", hidden_size=64).write_adapter(
            under_test.folder / "foreign", rank=1
        )
        high = model.write_adapter(under_test.folder / "high", rank=limits.max_adapter_rank + 1)
        core.expect_refusal(
            "adapter_load",
            "its folder does not exist",
            adapter=_FIRST,
            path=under_test.folder / "nowhere",
        )
        core.expect_refusal("adapter_load", "it is for another model", adapter=_FIRST, path=foreign)
        core.expect_refusal(
            "adapter_load", "its rank was not negotiated", adapter=_FIRST, path=high
        )
        core.expect_refusal("adapter_load", "0 is the model itself", adapter=0, path=paths[0])
        core.expect_refusal("adapter_unload", "it is not loaded", adapter=_UNKNOWN)
        for number in range(1, limits.max_adapters + 1):
            core.must_control("adapter_load", adapter=number, path=paths[0])
        core.expect_refusal("adapter_load", "its number is in use", adapter=1, path=paths[0])
        core.expect_refusal(
            "adapter_load",
            "no more were negotiated",
            adapter=limits.max_adapters + 1,
            path=paths[0],
        )
        sequence = core.add(prompt_of(6), _sampling(core))
        core.generate([sequence], 3)
        check_sequence(model, sequence, core.agreement)


def _unagreed_controls(under_test: BackendUnderTest) -> None:
    """Controls that were not negotiated or are unknown are rejected. None of them raises."""
    core = under_test.core()
    for name in [
        *(name for name, feature in CONTROLS.items() if not core.agreement.has(feature)),
        "no_such_control",
    ]:
        core.expect_refusal(
            name, "it was not negotiated", adapter=1, path=under_test.folder / "nowhere", blocks="0"
        )
    sequence = core.add(prompt_of(6), _sampling(core))
    core.generate([sequence], 2)
    check_sequence(under_test.models.get(), sequence, core.agreement)


CHECKS: Sequence[Check] = (
    Check(
        "C-58a",
        "features",
        "one step may use several adapters and none",
        _mixed_adapters,
        "lora",
    ),
    Check(
        "C-58b",
        "features",
        "adapters are loaded and unloaded while other sequences run",
        _changing_adapters,
        "lora",
    ),
    Check(
        "C-58c",
        "features",
        "a sequence whose adapter is not loaded fails without other effects",
        _unknown_adapter,
        "lora",
    ),
    Check("C-58d", "features", "unsuitable adapters are rejected", _refused_adapters, "lora"),
    Check("C-58e", "serving", "controls that were not negotiated are rejected", _unagreed_controls),
)
