"""Checks of the prefix cache: hits of several lengths, copies of blocks, and snapshots of
recurrent states.
"""

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
from tgi.testing.tiny_models import RECURRENT

__all__ = ["CHECKS"]

_HITS = (1, 2, 3, 5, 6, 9)  # in blocks
_COPIED = (1, 3, 6)  # blocks before the copied one

# Of the checks of snapshots
_NUM_OUTPUT = 4
_NUM_SEQUENCES = 4
_PREFIXES = (1, 3)  # in blocks
_MAX_TOKENS = 512


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


def _for_each_model(
    under_test: BackendUnderTest, check: Callable[[TinyModel, ScriptedCore], None]
) -> None:
    """Run a check with each recurrent model for which snapshots are negotiated."""
    requested = RequestedLimits(
        max_concurrent_requests=_NUM_SEQUENCES,
        model_max_total_tokens=_MAX_TOKENS,
        features=REQUESTED.features,
    )
    is_checked = False
    for family in RECURRENT:
        model = under_test.models.get(family)
        if not under_test.supports(model):
            continue
        with under_test.serving(model, requested) as core:
            limits = core.agreement.limits
            if not core.agreement.has("state_snapshots") or limits.max_sequences < _NUM_SEQUENCES:
                continue
            is_checked = True
            try:
                check(model, core)
            except CheckFailedError as error:
                raise CheckFailedError(f"{family}: {error}") from None
    not_applicable(not is_checked, "`state_snapshots` was negotiated for no model of the suite")


def _lengths(core: ScriptedCore) -> list[int]:
    """Return the lengths of prefixes: whole blocks and legal chunks."""
    size, limits = core.agreement.kv_cache.block_size, core.agreement.limits
    longest = min(limits.max_step_tokens, limits.max_total_tokens - 16)
    lengths = [count * size for count in _PREFIXES]
    return [n for n in lengths if n <= longest and n % limits.chunk_multiple == 0]


def _take(core: ScriptedCore, sequence: LiveSequence, length: int) -> int:
    """Compute the first `length` tokens of a sequence, and take a snapshot in the step with its
    next tokens. Returns the block of the snapshot.
    """
    core.advance({sequence: length})
    snapshot = core.free_slots.pop()
    core.state_copies.append((sequence.sequence_slot, snapshot))
    core.advance({sequence: 0})
    return snapshot


def _restored(
    core: ScriptedCore, source: LiveSequence, prompt: list[int], snapshot: int, length: int
) -> LiveSequence:
    """Add a sequence that continues from a snapshot."""
    size = core.agreement.kv_cache.block_size
    sequence = core.add(
        prompt,
        _sampling(core),
        blocks=source.blocks[: length // size],
        num_computed_tokens=length,
    )
    core.state_copies.append((snapshot, sequence.sequence_slot))
    return sequence


def _is_equal(one: LiveSequence, other: LiveSequence) -> bool:
    """Whether two sequences have the same tokens and the same bits of log probabilities."""
    return one.output == other.output and all(
        a == b or (a != a and b != b)  # noqa: PLR0124 - NaN test
        for a, b in zip(one.logprobs, other.logprobs, strict=True)
    )


def _equal_bits(model: TinyModel, core: ScriptedCore) -> None:
    """Compute each prompt alone, twice completely and then from a snapshot. The rows after the
    snapshot are the same, so the results must be equal if the first two are equal.
    """
    for length in _lengths(core):
        prompt = prompt_of(length + 3, seed=length)
        complete, snapshots = [], []
        for _ in range(2):
            cold = core.add(prompt, _sampling(core))
            snapshots.append(_take(core, cold, length))
            core.generate([cold], _NUM_OUTPUT - 1)
            complete.append(cold)
        hit = _restored(core, complete[0], prompt, snapshots[0], length)
        core.generate([hit], _NUM_OUTPUT)
        check_sequences(model, [*complete, hit], core.agreement)
        if _is_equal(*complete):  # the device computes the same bits each time
            require(
                _is_equal(complete[0], hit),
                f"after a snapshot at position {length}, the output is {hit.output} with the log"
                f" probabilities {hit.logprobs}, but {complete[0].output} with"
                f" {complete[0].logprobs} without the snapshot ({hit.description})",
            )
        core.drop(*complete, hit)
        core.free_slots += snapshots


def _several(model: TinyModel, core: ScriptedCore) -> None:
    """Several snapshots are restored in one step with other rows, after the sequences from which
    they were taken have continued. One snapshot is restored twice.
    """
    for length in _lengths(core):
        sources, snapshots = [], []
        for seed in range(2):
            source = core.add(prompt_of(length + 4, seed=seed), _sampling(core))
            snapshots.append(_take(core, source, length))
            sources.append(source)
        core.generate(sources, 2)
        tails = [prompt_of(count, seed=60 + count) for count in (1, 5)]
        hits = [
            _restored(core, source, [*source.prompt[:length], *tail], snapshot, length)
            for source, snapshot, tail in zip(sources, snapshots, tails, strict=True)
        ]
        core.generate([*hits, *sources], _NUM_OUTPUT)
        check_sequences(model, [*hits, *sources], core.agreement)
        core.drop(*hits)
        again = _restored(
            core, sources[0], [*sources[0].prompt[:length], *tails[1]], snapshots[0], length
        )
        core.generate([again], _NUM_OUTPUT)
        check_sequences(model, [again], core.agreement)
        core.drop(again, *sources)
        core.free_slots += snapshots


def _copied_twice(model: TinyModel, core: ScriptedCore) -> None:
    """A step takes a snapshot in the block of an evicted snapshot, and restores another one. A new
    sequence then gets the state of a dropped sequence.
    """
    for length in _lengths(core):
        first = core.add(prompt_of(length + 4, seed=7), _sampling(core))
        snapshot = _take(core, first, length)
        core.generate([first], 1)
        second = core.add(prompt_of(length + 4, seed=8), _sampling(core))
        evicted = _take(core, second, length)
        core.drop(second)
        third = core.add(prompt_of(length + 4, seed=9), _sampling(core))
        core.advance({third: length})
        core.state_copies.append((third.sequence_slot, evicted))
        hit = _restored(core, first, first.prompt, snapshot, length)
        core.generate([third, hit], 2)
        again = _restored(core, third, third.prompt, evicted, length)
        core.generate([again, third], 2)
        check_sequences(model, [first, third, hit, again], core.agreement)
        core.drop(first, third, hit, again)
        core.free_slots += [snapshot, evicted]


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
    Check(
        "C-28c",
        "features",
        "after a snapshot was restored, a sequence computes the same bits as without it",
        lambda under_test: _for_each_model(under_test, _equal_bits),
        "state_snapshots",
    ),
    Check(
        "C-28d",
        "features",
        "a snapshot contains the state of the right sequence at the right position",
        lambda under_test: _for_each_model(under_test, _several),
        "state_snapshots",
    ),
    Check(
        "C-28e",
        "features",
        "the block of an evicted snapshot can be used again",
        lambda under_test: _for_each_model(under_test, _copied_twice),
        "state_snapshots",
    ),
)
