"""Checks of images, pooling, sleep, and the export of blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import get_args

import numpy as np

from tgi.backend import (
    ExportBlocks,
    ImportBlocks,
    MediaInput,
    Pooling,
    SamplingParams,
    Sleep,
    Wake,
    WrongStateError,
)
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import allowance_of, check_sequence, check_sequences
from tgi.testing.conformance.models import TinyModel
from tgi.testing.conformance.require import CheckFailedError, not_applicable, require
from tgi.testing.conformance.scripted_core import ScriptedCore
from tgi.testing.tiny_images import image_of

__all__ = ["CHECKS"]

_START, _LENGTH, _PROMPT = 7, 11, 30  # position and length of an image, and prompt length


def _sampling(core: ScriptedCore) -> SamplingParams:
    return SamplingParams(logprobs="raw" if core.agreement.has("logprobs") else "none")


@contextlib.contextmanager
def _vision_model(under_test: BackendUnderTest) -> Iterator[tuple[TinyModel, ScriptedCore]]:
    """Serve a model that accepts images."""
    for model in under_test.models.with_images():
        if not under_test.supports(model):
            continue
        with under_test.serving(model) as core:
            if core.agreement.has("images"):
                yield model, core
                return
    not_applicable(True, "`images` was negotiated for no model of the suite")


def _images(under_test: BackendUnderTest) -> None:
    """Each placeholder uses its own row of its own image, in a batch with other sequences."""
    with _vision_model(under_test) as (model, core):
        media: list[tuple[MediaInput, ...]] = [
            (image_of(_START, _LENGTH, seed=1),),
            (image_of(_START, _LENGTH, seed=2),),
            (),
            (image_of(0, 3, seed=3), image_of(3, 5, seed=4)),
        ]
        media = media[: core.agreement.limits.max_sequences]
        sequences = [core.add(prompt_of(_PROMPT), _sampling(core), media=items) for items in media]
        core.generate(sequences, 5)
        check_sequences(model, sequences, core.agreement)
        core.drop(*sequences)
        again = [
            core.add(s.prompt, _sampling(core), output=s.output, media=s.media)
            for s in reversed(sequences)
        ]
        core.generate(again, 3)
        check_sequences(model, again, core.agreement)


def _image_chunks(under_test: BackendUnderTest) -> None:
    """A prefill chunk may end before, within and after the placeholders."""
    with _vision_model(under_test) as (model, core):
        limits = core.agreement.limits
        not_applicable(
            not limits.chunked or limits.chunk_multiple > 1,
            "prefill chunks of any length were not negotiated",
        )
        for border in (
            _START - 1,
            _START,
            _START + 1,
            _START + _LENGTH - 1,
            _START + _LENGTH,
            _START + _LENGTH + 1,
        ):
            sequence = core.add(
                prompt_of(_PROMPT), _sampling(core), media=(image_of(_START, _LENGTH, seed=border),)
            )
            core.advance({sequence: border})
            core.generate([sequence], 2)
            check_sequence(model, sequence, core.agreement)
            core.drop(sequence)


def _pooling(under_test: BackendUnderTest) -> None:
    """Pool texts of many lengths, whole and in chunks, in a batch with a generating sequence."""
    core, model = under_test.core(), under_test.models.get()
    not_applicable(not core.agreement.has("embeddings"), "`embeddings` was not negotiated")
    limits, allowance = core.agreement.limits, allowance_of(model, core.agreement)
    others = (
        [core.add(prompt_of(8), _sampling(core))]
        if limits.mixed and limits.max_sequences > 1
        else []
    )
    core.generate(others, 1)
    for pooling in (kind for kind in get_args(Pooling) if kind != "none"):
        for length in (1, 2, 17, 60):
            text = core.add(prompt_of(length, seed=length), pooling=pooling)
            if length > 2 * limits.chunk_multiple and limits.chunked:
                core.advance({text: limits.chunk_multiple})
                require(text.pooled is None, "a vector was returned before the end of the text")
            core.advance(dict.fromkeys([text, *others], 0))
            core.drop(text)
            if text.pooled is None:
                raise CheckFailedError(f"a text of {length} tokens got no vector: {text.error}")
            expected = model.pooled(text.prompt, pooling)
            require(
                text.pooled.shape == expected.shape,
                f"the vector has the shape {text.pooled.shape}, not {expected.shape}",
            )
            error = float(np.abs(text.pooled - expected).max())
            require(
                error <= allowance,
                f"the error of pooling `{pooling}` of {length} tokens is {error:.5f}",
            )
    check_sequences(model, others, core.agreement)


def _sleep(under_test: BackendUnderTest) -> None:
    """A sleeping worker rejects steps, and `wake` restores the worker. `sleep` is rejected while
    there are sequences.
    """
    not_applicable(not under_test.agreement().has("sleep"), "`sleep` was not negotiated")
    model = under_test.models.get()
    with under_test.serving(model) as core:
        core.expect_refusal(Wake(), "it is awake")
        sequence = core.add(prompt_of(10), _sampling(core))
        core.generate([sequence], 2)
        core.expect_refusal(Sleep(), "the worker has a sequence")
        core.generate([sequence], 2)
        check_sequence(model, sequence, core.agreement)
        core.clear()
        for _ in range(2):
            core.must_control(Sleep())
            core.expect_refusal(Sleep(), "it is asleep")
            require(
                not core.worker.health(deep=False).ok,
                "a sleeping worker reports that it is healthy",
            )
            _expect_no_step(core)
            core.must_control(Wake())
            require(core.worker.health(deep=True).ok, "a worker reports unhealthy after wake")
            sequences = [
                core.add(prompt_of(10, seed=i), _sampling(core))
                for i in range(min(2, core.agreement.limits.max_sequences))
            ]
            core.generate(sequences, 3)
            check_sequences(model, sequences, core.agreement)
            core.clear()
        core.must_control(Sleep())


def _expect_no_step(core: ScriptedCore) -> None:
    try:
        core.worker.submit(core.build({}))
    except WrongStateError:
        return
    raise CheckFailedError("a sleeping worker accepted a step")


def _exported_blocks(under_test: BackendUnderTest) -> None:
    """Export blocks of a running sequence to a file, and import them into other blocks."""
    core, model = under_test.core(), under_test.models.get()
    not_applicable(not core.agreement.has("kv_export"), "`kv_export` was not negotiated")
    size, folder = core.agreement.kv_cache.block_size, under_test.folder / "cache"
    limits = core.agreement.limits
    not_applicable(limits.max_total_tokens < 2 * size + 8, "the context is shorter than two blocks")
    first = core.add(prompt_of(2 * size - 3), _sampling(core))
    core.generate([first], 4)  # the last token completes the second block
    written, copied = (folder / name for name in ("written.kv", "copied.kv"))
    core.must_control(ExportBlocks(tuple(first.blocks[:2]), str(written)))
    core.generate([first], 2)
    check_sequence(model, first, core.agreement)
    tokens, blocks = first.tokens, first.blocks[:2]
    core.drop(first)
    others = [
        core.add(prompt_of(2 * size, seed=9), _sampling(core))
        for _ in range(min(2, limits.max_sequences))
    ]
    core.generate(others, 2)
    target = [core.free_blocks.pop() for _ in range(2)]
    both, nowhere = tuple(target), str(folder / "nowhere.kv")
    core.expect_refusal(ImportBlocks(both[:1], str(written)), "it contains two blocks")
    core.expect_refusal(ImportBlocks(both, nowhere), "the file does not exist")
    core.must_control(ImportBlocks(both, str(written)))
    core.must_control(ExportBlocks(both, str(copied)))
    require(
        written.read_bytes() == copied.read_bytes(),
        "blocks that were imported are exported with other content",
    )
    check_sequences(model, others, core.agreement)
    core.drop(*others)
    heir = core.add(
        [*tokens[: 2 * size], *prompt_of(5, seed=4)],
        _sampling(core),
        blocks=target,
        num_computed_tokens=2 * size,
    )
    require(not set(target) & set(blocks), "the suite must import into other blocks")
    core.generate([heir], 4)
    check_sequence(model, heir, core.agreement)


CHECKS: Sequence[Check] = (
    Check(
        "C-59h",
        "features",
        "each image is used at its own placeholders, even after preemption",
        _images,
        "images",
    ),
    Check(
        "C-59i", "features", "a prefill chunk may end anywhere in an image", _image_chunks, "images"
    ),
    Check(
        "C-59j",
        "features",
        "pooled vectors match, for whole prompts and chunks",
        _pooling,
        "embeddings",
    ),
    Check(
        "C-59k",
        "features",
        "a sleeping worker rejects steps, and wake restores it",
        _sleep,
        "sleep",
    ),
    Check(
        "C-59l",
        "features",
        "exported blocks are imported bit by bit",
        _exported_blocks,
        "kv_export",
    ),
)
