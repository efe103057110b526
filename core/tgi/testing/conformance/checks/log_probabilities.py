"""Checks of the log probabilities of output tokens, top tokens and prompt tokens."""

from __future__ import annotations

from collections.abc import Sequence

from tgi.backend import Agreement, SamplingParams
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import check_sequence
from tgi.testing.conformance.require import not_applicable, require
from tgi.worker.sampling import log_softmax

__all__ = ["CHECKS"]

_MAX_TOPS = 5


def _num_tops(agreement: Agreement) -> int:
    """Return the number of top tokens that the checks request."""
    if "top_n_tokens" not in agreement.sampling:
        return 0
    return int(min(_MAX_TOPS, agreement.sampling_caps.get("top_n_tokens", _MAX_TOPS)))


def _logprobs(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    not_applicable(not core.agreement.has("logprobs"), "`logprobs` was not negotiated")
    drawn = "temperature" in core.agreement.sampling
    most = _num_tops(core.agreement)
    cases = [
        SamplingParams(
            greedy=greedy,
            temperature=1.0 if greedy else 0.7,
            logprobs=mode,
            top_n_tokens=top,
        )
        for greedy in ((True, False) if drawn else (True,))
        for mode in ("processed", "raw")
        for top in (0, most)
    ]
    for first in range(0, len(cases), core.agreement.limits.max_sequences):
        batch = [
            core.add(prompt_of(8, seed=i), sampling)
            for i, sampling in enumerate(cases[first:][:8], first)
        ]
        batch = batch[: core.agreement.limits.max_sequences]
        core.generate(batch, 4)
        for sequence in batch:
            missing = [value for value in sequence.logprobs if value != value]  # noqa: PLR0124 - NaN test
            require(not missing, "a requested log probability is missing")
            check_sequence(under_test.models.get(), sequence, core.agreement)
        core.drop(*batch)


def _top_ties(under_test: BackendUnderTest) -> None:
    not_applicable(
        "top_n_tokens" not in under_test.agreement().sampling, "`top_n_tokens` was not negotiated"
    )
    model = under_test.models.tied()
    with under_test.serving(model) as core:
        sequence = core.add(prompt_of(7), SamplingParams(logprobs="raw", top_n_tokens=2))
        core.generate([sequence], 2)
        for place, tops in enumerate(sequence.tops):
            row = model.logits(sequence.tokens[:-1])[len(sequence.prompt) + place - 1]
            expected = log_softmax(row.astype("float64"))
            tied = [i for i, value in enumerate(expected) if abs(value - expected.max()) < 1e-9]
            got = [token for token, _ in tops]
            require(
                got == tied,
                f"the top tokens are {got}, but {tied} have equal scores and are expected",
            )


def _prompt_scores(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    not_applicable(
        not core.agreement.has("prompt_logprobs"), "`prompt_logprobs` was not negotiated"
    )
    sampling = SamplingParams(prompt_logprobs=True)
    with_tops = SamplingParams(prompt_logprobs=True, top_n_tokens=_num_tops(core.agreement))
    for length, chosen in ((1, sampling), (2, with_tops), (40, sampling), (40, with_tops)):
        whole = core.add(prompt_of(length), chosen)
        core.generate([whole], 2)
        check_sequence(under_test.models.get(), whole, core.agreement)
        core.drop(whole)
    if core.agreement.limits.chunked:
        chunk = max(7, core.agreement.limits.chunk_multiple)
        chunk -= chunk % core.agreement.limits.chunk_multiple
        parts = core.add(prompt_of(40), with_tops)
        while parts.num_left > chunk:
            core.advance({parts: chunk})
        core.generate([parts], 1)
        check_sequence(under_test.models.get(), parts, core.agreement)


CHECKS: Sequence[Check] = (
    Check("C-44a", "features", "log probabilities and top tokens match", _logprobs, "logprobs"),
    Check(
        "C-44b",
        "features",
        "all top tokens that tie with the last are returned",
        _top_ties,
        "logprobs",
    ),
    Check(
        "C-45",
        "features",
        "prompt scores match, for whole prompts and chunks",
        _prompt_scores,
        "prompt_logprobs",
    ),
)
