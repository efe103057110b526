"""Checks of the prefix cache: hits of several lengths, and copies of blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tgi.backend import RequestedLimits, SamplingParams
from tgi.testing.conformance.backend_under_test import REQUESTED, BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import allowance_of, check_sequences
from tgi.testing.conformance.live_sequence import LiveSequence
from tgi.testing.conformance.models import TinyModel
from tgi.testing.conformance.require import CheckFailedError, not_applicable, require
from tgi.testing.conformance.scripted_core import ScriptedCore

__all__ = ["CHECKS"]

_HITS = (1, 2, 3, 5, 6, 9)  # in blocks
_COPIED = (1, 3, 6)  # blocks before the copied one


def _for_each_dtype(
    under_test: BackendUnderTest, check: Callable[[TinyModel, ScriptedCore], None]
) -> None:
    """Run a check with a checkpoint in float32 and, if it is supported, one in bfloat16. The
    context is long enough for the longest hit.
    """
    not_applicable(
        not under_test.agreement().has("prefix_cache"), "`prefix_cache` was not negotiated"
    )
    not_applicable(
        under_test.agreement().limits.max_sequences < 2,
        "only one concurrent sequence was negotiated",
    )
    length = (max(_HITS) + 2) * under_test.agreement().kv_cache.block_size
    positions = max(length, 512)
    models = [
        under_test.models.get("llama", dtype=dtype, max_position_embeddings=positions)
        for dtype in ("float32", "bfloat16")
    ]
    requested = RequestedLimits(
        max_concurrent_requests=4, model_max_total_tokens=length, features=REQUESTED.features
    )
    for model in filter(under_test.supports, models):
        with under_test.serving(model, requested) as core:
            try:
                check(model, core)
            except CheckFailedError as error:
                raise CheckFailedError(f"computing in {core.agreement.dtype}: {error}") from None


def _sampling(core: ScriptedCore) -> SamplingParams:
    return SamplingParams(logprobs="raw" if core.agreement.has("logprobs") else "none")


def _prefix_hits(model: TinyModel, core: ScriptedCore) -> None:
    """Each hit continues with several tokens in one row, and with one token."""
    size = core.agreement.kv_cache.block_size
    most = (core.agreement.limits.max_total_tokens - 10) // size
    for num_blocks in (count for count in _HITS if count <= most):
        length = num_blocks * size
        first = core.add(prompt_of(length + 3, seed=num_blocks), _sampling(core))
        core.generate([first], 2)
        for num_more in (1, 5):
            text = [*first.prompt[:length], *prompt_of(num_more, seed=50 + num_more)]
            hit = core.add(
                text, _sampling(core), blocks=first.blocks[:num_blocks], num_computed_tokens=length
            )
            core.generate([hit, first], 3)
            check_sequences(model, [hit, first], core.agreement)
            core.drop(hit)
            _compare_with_full(model, core, hit, length)
        core.drop(first)


def _compare_with_full(
    model: TinyModel, core: ScriptedCore, hit: LiveSequence, length: int
) -> None:
    """Compare the log probabilities of a hit with those of a run without the cache."""
    full = core.add(hit.prompt, _sampling(core))
    core.generate([full], len(hit.output))
    core.drop(full)
    allowance = allowance_of(model, core.agreement)
    pairs = zip(hit.output, full.output, hit.logprobs, full.logprobs, strict=True)
    for index, (token, other, with_hit, without) in enumerate(pairs):
        if token != other:
            return  # a near tie, which the comparison with the reference has accepted
        is_near = without != without or abs(with_hit - without) <= allowance  # noqa: PLR0124 - NaN test
        require(
            is_near,
            f"after a hit of {length} tokens, output token {index} has the log probability"
            f" {with_hit:.5f}, without the cache {without:.5f} ({hit.description})",
        )


def _block_copies(model: TinyModel, core: ScriptedCore) -> None:
    """The last block of a sequence is copied while it is half full. Source and copy continue with
    different tokens.
    """
    size = core.agreement.kv_cache.block_size
    most = core.agreement.limits.max_total_tokens // size - 2
    for num_before in (count for count in _COPIED if count <= most):
        prompt = prompt_of(num_before * size + size // 2, seed=num_before)
        first = core.add(prompt, _sampling(core))
        core.generate([first], 1)
        copied = core.free_blocks.pop()
        core.copies = [(first.blocks[num_before], copied)]
        tail = prompt_of(4, seed=6)
        fork = core.add(
            [*prompt, *tail],
            _sampling(core),
            blocks=[*first.blocks[:num_before], copied],
            num_computed_tokens=len(prompt),
        )
        core.generate([fork, first], 4)
        check_sequences(model, [fork, first], core.agreement)
        core.drop(fork, first)


CHECKS: Sequence[Check] = (
    Check(
        "C-28a",
        "features",
        "prefix cache hits of any length give the same results as the full computation",
        lambda under_test: _for_each_dtype(under_test, _prefix_hits),
        "prefix_cache",
    ),
    Check(
        "C-28b",
        "features",
        "a copied block contains the source's keys and values and is independent of it",
        lambda under_test: _for_each_dtype(under_test, _block_copies),
        "prefix_cache",
    ),
)
