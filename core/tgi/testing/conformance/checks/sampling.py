"""Checks of sampling: greedy decoding, temperature and filters (such as top-k and top-p),
penalties, random draws, grammar masks and log probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from tgi.backend import SamplingParams
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import check_sequence, check_sequences
from tgi.testing.conformance.require import not_applicable, require
from tgi.testing.conformance.scripted_core import ScriptedCore
from tgi.testing.watermark import detect_watermark

__all__ = ["CHECKS", "FIELD_CASES"]

_BORDER_SHARE = 0.02  # distance of a draw from the border of a token's interval
_MOST_DRAWS = 48

FIELD_CASES: Mapping[str, tuple[SamplingParams, ...]] = MappingProxyType(
    {
        "temperature": tuple(SamplingParams(greedy=False, temperature=t) for t in (0.3, 1.7)),
        "top_k": tuple(SamplingParams(greedy=False, top_k=k) for k in (1, 3, 16)),
        "top_p": tuple(SamplingParams(greedy=False, top_p=p) for p in (0.1, 0.6, 0.95)),
        "typical_p": tuple(SamplingParams(greedy=False, typical_p=p) for p in (0.2, 0.8)),
        "min_p": tuple(SamplingParams(greedy=False, min_p=p) for p in (0.05, 0.5)),
    }
)
_PENALTY_CASES: Mapping[str, tuple[SamplingParams, ...]] = MappingProxyType(
    {
        "repetition_penalty": (
            SamplingParams(repetition_penalty=1.8),
            SamplingParams(repetition_penalty=0.5),
        ),
        "relative_frequency_penalty": (SamplingParams(relative_frequency_penalty=20.0),),
        "frequency_penalty": (
            SamplingParams(frequency_penalty=2.0),
            SamplingParams(frequency_penalty=-2.0),
        ),
        "presence_penalty": (
            SamplingParams(presence_penalty=2.0),
            SamplingParams(presence_penalty=-2.0),
        ),
        "logit_bias": (SamplingParams(logit_bias=((9, 30.0), (11, -30.0))),),
        "watermark": (SamplingParams(watermark_gamma=0.25, watermark_delta=4.0),),
    }
)
_NUM_DRAWN = 24
_NUM_MARKED = 80
_CLEAR_Z_SCORE = 4.0


def _seen(core: ScriptedCore, sampling: SamplingParams) -> SamplingParams:
    """Request processed log probabilities if they were negotiated, because they depend on the whole
    distribution.
    """
    mode = "processed" if core.agreement.has("logprobs") else "none"
    values = {name: getattr(sampling, name) for name in sampling.__struct_fields__} | {
        "logprobs": mode
    }
    return SamplingParams(**values)


def _run(
    under_test: BackendUnderTest,
    core: ScriptedCore,
    cases: Sequence[SamplingParams],
    prompt: list[int],
    count: int,
) -> None:
    """Run each case in its own sequence. The number of concurrent sequences is the negotiated
    maximum.
    """
    most = core.agreement.limits.max_sequences
    for first in range(0, len(cases), most):
        batch = [
            core.add(prompt, _seen(core, sampling), seed=17 + i)
            for i, sampling in enumerate(cases[first : first + most])
        ]
        core.generate(batch, count)
        check_sequences(under_test.models.get(), batch, core.agreement)
        core.drop(*batch)


def _capped(
    core: ScriptedCore, cases: Mapping[str, tuple[SamplingParams, ...]]
) -> list[SamplingParams]:
    """Return the cases with negotiated fields, with values within the negotiated limits."""
    agreement = core.agreement
    return [
        sampling
        for name, variants in cases.items()
        if name in agreement.sampling
        for sampling in variants
        if name not in agreement.sampling_caps
        or float(getattr(sampling, name)) <= agreement.sampling_caps[name]
    ]


def _greedy_ties(under_test: BackendUnderTest) -> None:
    model = under_test.models.tied()
    with under_test.serving(model) as core:
        hidden = model.spec.hidden_size
        for seed in range(3):
            sequence = core.add(prompt_of(5 + seed, seed=seed))
            core.generate([sequence], 4)
            is_lowest = all(token < hidden for token in sequence.output)
            require(
                is_lowest,
                f"of equal logits the lowest id must be chosen; {sequence.output} were chosen, the"
                f" lowest ids are below {hidden}",
            )
            check_sequence(model, sequence, core.agreement)
            core.drop(sequence)


def _fields(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    cases = _capped(core, FIELD_CASES)
    not_applicable(not cases, "no sampling field for drawn tokens was negotiated")
    _run(under_test, core, cases, prompt_of(12), _NUM_DRAWN)


def _all_fields_together(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    wanted = {
        "temperature": 1.4,
        "top_k": 40,
        "top_p": 0.9,
        "typical_p": 0.95,
        "min_p": 0.01,
        "repetition_penalty": 1.3,
    }
    caps = core.agreement.sampling_caps
    agreed = {
        n: min(v, type(v)(caps.get(n, v)))
        for n, v in wanted.items()
        if n in core.agreement.sampling
    }
    not_applicable(len(agreed) < 2, "fewer than two sampling fields were negotiated")
    _run(under_test, core, [SamplingParams(greedy=False, **agreed)], prompt_of(10), _NUM_DRAWN)  # type: ignore[arg-type]


def _penalties(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    cases = _capped(core, _PENALTY_CASES)
    not_applicable(not cases, "no penalty, bias or watermark was negotiated")
    prompt = [5, 9, 9, 9, 11, 5, 30, 31, 32, 33]
    _run(under_test, core, cases, prompt, 8)
    for sampling in cases:
        # After a preemption, earlier generated tokens still count as output, not as prompt.
        sequence = core.add(prompt, _seen(core, sampling), output=[40, 41, 40, 9])
        core.generate([sequence], 5)
        check_sequence(under_test.models.get(), sequence, core.agreement)
        core.drop(sequence)


def _draws(under_test: BackendUnderTest) -> None:
    """Sampling depends only on the draws of the core. Equal draws give equal tokens in any
    batch.
    """
    core = under_test.core()
    not_applicable(
        "temperature" not in core.agreement.sampling,
        "no sampling field for drawn tokens was negotiated",
    )
    drawn, prompt = SamplingParams(greedy=False), prompt_of(9)
    alone = core.add(prompt, drawn, seed=11)
    core.generate([alone], 12)
    check_sequence(under_test.models.get(), alone, core.agreement)
    core.drop(alone)
    most = min(4, core.agreement.limits.max_sequences)
    together = [core.add(prompt, drawn, seed=11 + i // 2) for i in range(most)]
    core.generate(together, 12)
    check_sequences(under_test.models.get(), together, core.agreement)
    require(
        len({tuple(s.output) for s in together}) == (most + 1) // 2,
        "sequences with different seeds are equal",
    )


def _same_to_the_last_bit(under_test: BackendUnderTest) -> None:
    """The log probabilities of a sequence are bit-identical if it runs alone, in a batch, or in
    chunks.
    """
    core = under_test.core()
    not_applicable(not core.agreement.has("deterministic"), "`deterministic` was not negotiated")
    not_applicable(
        not core.agreement.has("logprobs"),
        "the check needs log probabilities, which were not negotiated",
    )
    raw, limits = SamplingParams(logprobs="raw"), core.agreement.limits
    alone = core.add(prompt_of(25), raw)
    core.generate([alone], 6)
    core.drop(alone)
    others = [
        core.add(prompt_of(5 + i, seed=i), raw) for i in range(min(4, limits.max_sequences) - 1)
    ]
    core.generate(others, 1)
    again = core.add(alone.prompt, raw)
    if limits.chunked and limits.chunk_multiple < len(alone.prompt):
        core.advance({again: limits.chunk_multiple})
    core.generate([again, *others], 6)
    require(
        again.output == alone.output,
        f"the tokens are {again.output} in a batch and {alone.output} alone",
    )
    require(
        again.logprobs == alone.logprobs,
        f"the log probabilities are {again.logprobs} in a batch and {alone.logprobs} alone",
    )


def _mixed_rows(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    cases = [
        SamplingParams(),
        *_capped(core, FIELD_CASES)[:3],
        *_capped(core, _PENALTY_CASES)[:3],
        SamplingParams(),
    ]
    not_applicable(
        core.agreement.limits.max_sequences < 2, "only one concurrent sequence was negotiated"
    )
    _run(under_test, core, cases, prompt_of(14), 6)


def _watermark(under_test: BackendUnderTest) -> None:
    """The detector finds the watermark in sampled text with a watermark, and finds no watermark in
    other text.
    """
    core = under_test.core()
    not_applicable("watermark" not in core.agreement.sampling, "`watermark` was not negotiated")
    not_applicable("temperature" not in core.agreement.sampling, "drawing was not negotiated")
    marked = SamplingParams(greedy=False, watermark_gamma=0.5, watermark_delta=6.0)
    for sampling, is_marked in ((marked, True), (SamplingParams(greedy=False), False)):
        sequence = core.add(prompt_of(8), sampling, seed=3)
        core.generate([sequence], _NUM_MARKED)
        evidence = detect_watermark(
            sequence.tokens, len(sequence.prompt), core.agreement.vocab_size
        )
        found = evidence.z_score > _CLEAR_Z_SCORE
        require(
            found == is_marked,
            f"{evidence.num_green} of {evidence.num_tokens} tokens are green in a text"
            f" {'with' if is_marked else 'without'} a watermark",
        )
        core.drop(sequence)


def _accuracy_of_draws(under_test: BackendUnderTest) -> None:
    """All tokens are equally likely, so each token has the same interval of draws. The draws are
    close to the borders of the intervals. In 16 bits, they would be in the next interval.
    """
    agreement = under_test.agreement()
    not_applicable("temperature" not in agreement.sampling, "`temperature` was not negotiated")
    model = under_test.models.flat()
    size = model.spec.vocab_size
    near = [
        (token + side * _BORDER_SHARE) / size
        for token in range(size // 2, size)
        for side in (-1, 1)
    ]
    draws = [draw for draw in near if int(np.float16(draw) * size) != int(draw * size)]
    draws = draws[:_MOST_DRAWS]
    with under_test.serving(model) as core:
        most = core.agreement.limits.max_sequences
        for start in range(0, len(draws), most):
            sequences = []
            for draw in draws[start : start + most]:
                sequences.append(core.add([5], SamplingParams(greedy=False)))
                sequences[-1].draw = draw
            core.generate(sequences, 1)
            for sequence, draw in zip(sequences, draws[start : start + most], strict=True):
                require(
                    sequence.output == [int(draw * size)],
                    f"with {size} equally likely tokens, the draw {draw:.7f} must choose token"
                    f" {int(draw * size)}, not {sequence.output} ({sequence.description})",
                )
            core.drop(*sequences)


CHECKS: Sequence[Check] = (
    Check(
        "C-39",
        "basic",
        "greedy sampling chooses the most likely token, of equal ones the lowest id",
        _greedy_ties,
    ),
    Check("C-40a", "serving", "each negotiated sampling field acts as in the reference", _fields),
    Check(
        "C-40c",
        "serving",
        "a draw is used with the accuracy of float32",
        _accuracy_of_draws,
    ),
    Check("C-40b", "serving", "sampling fields act together in their order", _all_fields_together),
    Check(
        "C-41", "serving", "penalties, bias and watermark match, even after preemption", _penalties
    ),
    Check("C-42a", "serving", "only the draws determine sampled tokens, in any batch", _draws),
    Check(
        "C-43", "serving", "rows with different sampling parameters are independent", _mixed_rows
    ),
    Check("C-59b", "serving", "the watermark is detected only where it was requested", _watermark),
    Check(
        "C-42b",
        "features",
        "log probabilities are bit-identical in any batch",
        _same_to_the_last_bit,
        "deterministic",
    ),
)
