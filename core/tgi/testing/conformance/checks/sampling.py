"""Checks of choosing tokens: greedy, every agreed field, penalties, draws, masks, log
probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tgi.backend import SamplingParams, StepError
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check, CheckFailedError, not_applicable, require
from tgi.testing.conformance.expectations import check_sequence, check_sequences
from tgi.testing.conformance.live_sequence import LiveSequence
from tgi.testing.conformance.scripted_core import ScriptedCore
from tgi.testing.watermark import detect_watermark
from tgi.worker.sampling import log_softmax

__all__ = ["CHECKS", "FIELD_CASES"]

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
    """With processed log probabilities where they are agreed: they show the whole distribution's
    scale.
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
    """Each case in a sequence of its own, as many at a time as were agreed."""
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
    """Cases of the agreed fields, within their caps."""
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
                f"of equal logits the lowest id wins; chosen were {sequence.output}, lowest are"
                f" below {hidden}",
            )
            check_sequence(model, sequence, core.agreement)
            core.drop(sequence)


def _fields(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    cases = _capped(core, FIELD_CASES)
    not_applicable(not cases, "no field that shapes a draw was agreed")
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
    not_applicable(len(agreed) < 2, "fewer than two fields were agreed")
    _run(under_test, core, [SamplingParams(greedy=False, **agreed)], prompt_of(10), _NUM_DRAWN)  # type: ignore[arg-type]


def _penalties(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    cases = _capped(core, _PENALTY_CASES)
    not_applicable(not cases, "no penalty, bias or watermark was agreed")
    prompt = [5, 9, 9, 9, 11, 5, 30, 31, 32, 33]
    _run(under_test, core, cases, prompt, 8)
    for (
        sampling
    ) in cases:  # after a preemption what was generated before counts as output, not as prompt
        sequence = core.add(prompt, _seen(core, sampling), output=[40, 41, 40, 9])
        core.generate([sequence], 5)
        check_sequence(under_test.models.get(), sequence, core.agreement)
        core.drop(sequence)


def _draws(under_test: BackendUnderTest) -> None:
    """The core's draws alone decide: twice the same ones give the same tokens, alone and in
    company.
    """
    core = under_test.core()
    not_applicable(
        "temperature" not in core.agreement.sampling, "no field that shapes a draw was agreed"
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
        "sequences of different seeds are equal",
    )


def _same_to_the_last_bit(under_test: BackendUnderTest) -> None:
    """Alone, in company, in chunks: log probabilities are equal, not only near."""
    core = under_test.core()
    not_applicable(not core.agreement.has("deterministic"), "`deterministic` was not agreed")
    not_applicable(
        not core.agreement.has("logprobs"),
        "only log probabilities could show it, and they were not agreed",
    )
    raw, limits = SamplingParams(logprobs="raw"), core.agreement.limits
    alone = core.add(prompt_of(25), raw)
    core.generate([alone], 6)
    core.drop(alone)
    company = [
        core.add(prompt_of(5 + i, seed=i), raw) for i in range(min(4, limits.max_sequences) - 1)
    ]
    core.generate(company, 1)
    again = core.add(alone.prompt, raw)
    if limits.chunked and limits.chunk_multiple < len(alone.prompt):
        core.advance({again: limits.chunk_multiple})
    core.generate([again, *company], 6)
    require(again.output == alone.output, f"tokens {again.output} in company, {alone.output} alone")
    require(
        again.logprobs == alone.logprobs,
        f"log probabilities {again.logprobs} in company, {alone.logprobs} alone",
    )


def _mixed_rows(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    cases = [
        SamplingParams(),
        *_capped(core, FIELD_CASES)[:3],
        *_capped(core, _PENALTY_CASES)[:3],
        SamplingParams(),
    ]
    not_applicable(core.agreement.limits.max_sequences < 2, "one sequence at a time was agreed")
    _run(under_test, core, cases, prompt_of(14), 6)


def _logprobs(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    not_applicable(not core.agreement.has("logprobs"), "`logprobs` was not agreed")
    has_tops = "top_n_tokens" in core.agreement.sampling
    drawn = "temperature" in core.agreement.sampling
    most = int(min(5, core.agreement.sampling_caps.get("top_n_tokens", 5)))
    cases = [
        SamplingParams(
            greedy=greedy,
            temperature=1.0 if greedy else 0.7,
            logprobs=mode,
            top_n_tokens=top if has_tops else 0,
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
            require(not missing, "a log probability that was agreed is missing")
            check_sequence(under_test.models.get(), sequence, core.agreement)
        core.drop(*batch)


def _top_ties(under_test: BackendUnderTest) -> None:
    not_applicable(
        "top_n_tokens" not in under_test.agreement().sampling, "`top_n_tokens` was not agreed"
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
                f"tokens tied with the last of the first 2 are all given, by id: {tied}, not {got}",
            )


def _prompt_scores(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    not_applicable(not core.agreement.has("prompt_logprobs"), "`prompt_logprobs` was not agreed")
    sampling = SamplingParams(prompt_logprobs=True)
    for length in (1, 2, 40):
        whole = core.add(prompt_of(length), sampling)
        core.generate([whole], 2)
        check_sequence(under_test.models.get(), whole, core.agreement)
        core.drop(whole)
    if core.agreement.limits.chunked:
        chunk = max(7, core.agreement.limits.chunk_multiple)
        chunk -= chunk % core.agreement.limits.chunk_multiple
        parts = core.add(prompt_of(40), sampling)
        while parts.num_left > chunk:
            core.advance({parts: chunk})
        core.generate([parts], 1)
        check_sequence(under_test.models.get(), parts, core.agreement)


def _watermark(under_test: BackendUnderTest) -> None:
    """The detector finds the watermark in drawn text, and none where none was asked for."""
    core = under_test.core()
    not_applicable("watermark" not in core.agreement.sampling, "`watermark` was not agreed")
    not_applicable("temperature" not in core.agreement.sampling, "drawing was not agreed")
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
            f"{evidence.num_green} of {evidence.num_tokens} tokens are green; marked: {is_marked}",
        )
        core.drop(sequence)


def _inline_masks(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    not_applicable(not core.agreement.has("mask"), "`mask` was not agreed")
    _check_masks(under_test, core)


def _late_masks(under_test: BackendUnderTest) -> None:
    """Masks that follow their step act as those that come with it; a step whose masks do not come
    fails and nothing else.
    """
    core = under_test.core()
    not_applicable(not core.agreement.has("late_mask"), "`late_mask` was not agreed")
    core.mask_mode = "late"
    _check_masks(under_test, core)
    sequence = core.add(prompt_of(7))
    sequence.allowed = ((7, 9),)
    step = core.build({sequence: 7})
    core.worker.submit(step)
    try:
        output = core.worker.collect()
    except StepError as error:
        require(error.retryable, "a step whose masks did not come may not be tried again")
    else:
        raise CheckFailedError(f"a step whose masks did not come has the result {output}")
    core.forget(step)
    _check_masks(under_test, core)


def _check_masks(under_test: BackendUnderTest, core: ScriptedCore) -> None:
    vocab_size = core.agreement.vocab_size
    allowed = [(7,), (vocab_size - 1,), tuple(range(31, 97)), tuple(range(0, vocab_size, 5)), None]
    can_draw = "temperature" in core.agreement.sampling
    for greedy in (True, False) if can_draw else (True,):
        sequences: list[LiveSequence] = []
        for seed, tokens in enumerate(allowed[: core.agreement.limits.max_sequences]):
            sequences.append(
                core.add(prompt_of(6, seed=seed), SamplingParams(greedy=greedy), seed=seed)
            )
            sequences[-1].allowed = () if tokens is None else (tokens,)
        core.generate(sequences, 4)
        for sequence in sequences:
            if sequence.allowed:
                require(
                    set(sequence.output) <= set(sequence.allowed[0]),
                    f"a forbidden token among {sequence.output}",
                )
        check_sequences(under_test.models.get(), sequences, core.agreement)
        core.drop(*sequences)


CHECKS: Sequence[Check] = (
    Check(
        "C-39",
        "basic",
        "greedy takes the likeliest token, of equal ones the lowest id",
        _greedy_ties,
    ),
    Check("C-40a", "serving", "each agreed field shapes the draw as the reference does", _fields),
    Check("C-40b", "serving", "fields act together in their order", _all_fields_together),
    Check(
        "C-41", "serving", "penalties, bias and watermark match, after a preemption too", _penalties
    ),
    Check("C-42a", "serving", "the core's draws decide, whatever the batch", _draws),
    Check("C-43", "serving", "rows of different sampling do not touch each other", _mixed_rows),
    Check("C-59b", "serving", "the watermark is found, and only where it is", _watermark),
    Check(
        "C-42b",
        "features",
        "company changes not a bit of a log probability",
        _same_to_the_last_bit,
        "deterministic",
    ),
    Check("C-44a", "features", "log probabilities and top tokens match", _logprobs, "logprobs"),
    Check(
        "C-44b",
        "features",
        "top tokens that tie with the last are all given",
        _top_ties,
        "logprobs",
    ),
    Check(
        "C-45",
        "features",
        "prompt scores match, whole and in chunks",
        _prompt_scores,
        "prompt_logprobs",
    ),
    Check(
        "C-46a",
        "features",
        "only allowed tokens are chosen, and only masked rows are touched",
        _inline_masks,
        "mask",
    ),
    Check("C-46b", "features", "masks may follow their step, and must", _late_masks, "late_mask"),
)
