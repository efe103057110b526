"""Checks of LoRA adapters: their effect on their own sequence, no effect on other sequences, and
rejected requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from tgi.backend import (
    ControlRecord,
    ExportBlocks,
    ImportBlocks,
    LoadAdapter,
    SamplingParams,
    Sleep,
    UnloadAdapter,
    Wake,
)
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import check_sequence, check_sequences
from tgi.testing.conformance.models import TinyModel
from tgi.testing.conformance.require import not_applicable, require
from tgi.testing.conformance.scripted_core import ScriptedCore

__all__ = ["CHECKS"]

_FIRST, _SECOND, _UNKNOWN = 7, 3, 5  # adapter numbers may have any order
_PROMPT = 21


class _NoSuchControl(ControlRecord, frozen=True):
    """A request of a later version of the backend interface."""

    name: ClassVar[str] = "no_such_control"
    feature: ClassVar[str] = "no_such_feature"


def _make_adapters(
    under_test: BackendUnderTest, core: ScriptedCore
) -> tuple[list[Path], list[TinyModel]]:
    """Create three adapters for the plain model, and the reference model of each adapter."""
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
    require(
        min(most, agreement.limits.max_adapter_rank) >= 1,
        "`lora` was negotiated, but a limit for it is 0",
    )
    not_applicable(most < num_adapters, f"{most} concurrent adapters were negotiated")


def _mixed_adapters(under_test: BackendUnderTest) -> None:
    """One step runs the same prompt with two adapters and without an adapter."""
    _require_lora(under_test, 2)
    base = under_test.models.get()
    with under_test.serving(base) as core:
        paths, models = _make_adapters(under_test, core)
        for number, path in zip((_FIRST, _SECOND), paths, strict=False):
            core.must_control(LoadAdapter(number, str(path)))
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

    If an adapter number is used again, the old weights have no effect.
    """
    _require_lora(under_test, 2)
    base = under_test.models.get()
    with under_test.serving(base) as core:
        paths, models = _make_adapters(under_test, core)
        core.must_control(LoadAdapter(_FIRST, str(paths[0])))
        count = min(2, core.agreement.limits.max_sequences - 1)
        not_applicable(count < 1, "only one concurrent sequence was negotiated")
        running = [
            core.add(prompt_of(9, seed=i), _sampling(core), adapter=(_FIRST, 0)[i])
            for i in range(count)
        ]
        core.generate(running, 2)
        for path, model in zip(paths[1:], models[1:], strict=True):
            core.must_control(LoadAdapter(_SECOND, str(path)))
            guest = core.add(prompt_of(_PROMPT), _sampling(core), adapter=_SECOND)
            core.generate([guest, *running], 3)
            check_sequence(model, guest, core.agreement)
            core.drop(guest)
            core.run(core.build({}))
            core.must_control(UnloadAdapter(_SECOND))
            core.generate(running, 2)
        for sequence, model in zip(running, (models[0], base), strict=False):
            check_sequence(model, sequence, core.agreement)


def _unknown_adapter(under_test: BackendUnderTest) -> None:
    """A sequence fails if its adapter was never loaded or is no longer loaded. Other sequences are
    not affected.
    """
    _require_lora(under_test)
    with under_test.serving(under_test.models.get()) as core:
        not_applicable(
            core.agreement.limits.max_sequences < 2, "only one concurrent sequence was negotiated"
        )
        paths, _ = _make_adapters(under_test, core)
        core.must_control(LoadAdapter(_FIRST, str(paths[0])))
        core.must_control(UnloadAdapter(_FIRST))
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
        nowhere, good = str(under_test.folder / "nowhere"), str(paths[0])
        core.expect_refusal(LoadAdapter(_FIRST, nowhere), "its folder does not exist")
        core.expect_refusal(LoadAdapter(_FIRST, str(foreign)), "it is for another model")
        core.expect_refusal(LoadAdapter(_FIRST, str(high)), "its rank was not negotiated")
        core.expect_refusal(LoadAdapter(0, good), "0 is the model itself")
        core.expect_refusal(UnloadAdapter(_UNKNOWN), "it is not loaded")
        for number in range(1, limits.max_adapters + 1):
            core.must_control(LoadAdapter(number, good))
        core.expect_refusal(LoadAdapter(1, good), "its number is in use")
        core.expect_refusal(LoadAdapter(limits.max_adapters + 1, good), "no more were negotiated")
        sequence = core.add(prompt_of(6), _sampling(core))
        core.generate([sequence], 3)
        check_sequence(model, sequence, core.agreement)


def _unagreed_controls(under_test: BackendUnderTest) -> None:
    """Control requests that were not negotiated or are unknown are rejected. No exception is
    raised.
    """
    core = under_test.core()
    nowhere = str(under_test.folder / "nowhere")
    for request in (
        LoadAdapter(1, nowhere),
        UnloadAdapter(1),
        Sleep(),
        Wake(),
        ExportBlocks((0,), nowhere),
        ImportBlocks((0,), nowhere),
        _NoSuchControl(),
    ):
        if not core.agreement.has(request.feature):
            core.expect_refusal(request, "it was not negotiated")
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
