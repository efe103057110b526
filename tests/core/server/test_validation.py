"""TGI's validation rules and error messages."""

import dataclasses

import pytest

from tests.core.server.conftest import CONFIG
from tests.core.server.fake_engine import agreement
from tgi.backend import SamplingParams
from tgi.errors import ValidationError
from tgi.grammar.constraint import Constraint
from tgi.server.generation.parameters import (
    GenerateParameters,
    Grammar,
    StopStyle,
    TextRequest,
)
from tgi.server.generation.validation import (
    BEST_OF_RULES,
    GUIDANCE_RULES,
    PARAMETER_RULES,
    STREAM_RULES,
    TOKEN_RULES,
    Candidate,
    check,
)


def candidate(parameters, prompt="hi", num_tokens=0, **changes):
    request = TextRequest(prompt, parameters, StopStyle.NATIVE)
    return Candidate(request, CONFIG, agreement(**changes), (1,) * num_tokens)


def check_parameters(prompt, parameters):
    everything = (*agreement().sampling, "watermark", "repetition_penalty", "typical_p")
    everything += ("relative_frequency_penalty",)
    check(PARAMETER_RULES, candidate(parameters, prompt, sampling=everything))


def check_lengths(num_tokens, parameters):
    checked = candidate(parameters, num_tokens=num_tokens)
    check(TOKEN_RULES, checked)
    return checked


BROKEN = [
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ({"temperature": 0.0}, "`temperature` must be strictly positive"),
    ({"temperature": 1e-60}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"seed": 1, "best_of": 2, "do_sample": True}, "`seed` must not be set when `best_of` > 1"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 48. Given: 0"),
    ({"truncate": 49}, "`truncate` must be strictly positive and less than 48. Given: 49"),
    ({"adapter_id": "a"}, "`adapter_id` is not supported by this version: leave it out. Given: a"),
]


@pytest.mark.parametrize(("parameters", "text"), BROKEN, ids=lambda value: str(value)[:40])
def test_a_violated_rule_is_reported(parameters, text):
    with pytest.raises(ValidationError) as caught:
        check_parameters("hi", GenerateParameters(**parameters))
    assert str(caught.value) == text
    assert caught.value.text == "Input validation error: " + text


def test_the_first_violated_rule_is_reported():
    with pytest.raises(ValidationError, match="temperature"):
        check_parameters("", GenerateParameters(temperature=0.0, top_k=0))


def test_rules_are_applied_in_the_order_of_tgi():
    in_order = {
        "temperature": (0.0, "temperature"),
        "repetition_penalty": (0.0, "repetition_penalty"),
        "frequency_penalty": (3.0, "frequency_penalty"),
        "top_p": (1.0, "top_p"),
        "typical_p": (1.0, "typical_p"),
        "top_k": (0, "top_k"),
        "max_new_tokens": (0, "max_new_tokens"),
        "stop": (list("abcde"), "stop"),
        "top_n_tokens": (6, "top_n_tokens"),
        "truncate": (0, "truncate"),
        "adapter_id": ("a", "adapter_id"),
    }
    broken = {name: value for name, (value, _) in in_order.items()}
    for name, (_, text) in in_order.items():
        with pytest.raises(ValidationError, match=rf"`{text}`"):
            check_parameters("hi", GenerateParameters(**broken))
        del broken[name]
    check_parameters("hi", GenerateParameters(**broken))


def test_an_empty_prompt_is_rejected():
    with pytest.raises(ValidationError, match=r"^`inputs` cannot be empty$"):
        check_parameters("", GenerateParameters())


def test_values_at_the_limits_are_accepted():
    parameters = GenerateParameters(
        temperature=1e39,
        frequency_penalty=-2.0,
        top_p=0.99,
        top_n_tokens=5,
        truncate=48,
        stop=list("abcd"),
        best_of=0,
    )
    check_parameters("hi", parameters)


@pytest.mark.parametrize(
    ("best_of", "is_rejected"), [(None, False), (1, False), (0, True), (2, True)]
)
def test_streams_have_one_sequence(best_of, is_rejected):
    parameters = GenerateParameters(best_of=best_of)
    if is_rejected:
        with pytest.raises(
            ValidationError, match=r"^`best_of` != 1 is not supported when streaming tokens$"
        ):
            check(STREAM_RULES, candidate(parameters))
    else:
        check(STREAM_RULES, candidate(parameters))


def test_streams_have_no_prompt_details():
    with pytest.raises(
        ValidationError,
        match=r"^`decoder_input_details` == true is not supported when streaming tokens$",
    ):
        check(STREAM_RULES, candidate(GenerateParameters(decoder_input_details=True)))


def test_best_of_has_a_limit():
    with pytest.raises(ValidationError, match=r"^`best_of` must be > 0 and <= 2. Given: 3$"):
        check(BEST_OF_RULES, candidate(GenerateParameters(best_of=3)))
    check(BEST_OF_RULES, candidate(GenerateParameters(best_of=0)))


LENGTHS = [
    (
        10,
        55,
        (
            "`inputs` tokens + `max_new_tokens` must be <= 64. Given: 10 `inputs` tokens and 55"
            " `max_new_tokens`"
        ),
    ),
    (
        70,
        None,
        (
            "`inputs` tokens + `max_new_tokens` must be <= 64. Given: 70 `inputs` tokens and 0"
            " `max_new_tokens`"
        ),
    ),
    (
        5,
        5000,
        (
            "`inputs` tokens + `max_new_tokens` must be <= 64. Given: 5 `inputs` tokens and 1024"
            " `max_new_tokens`"
        ),
    ),
    (49, None, "`inputs` must have less than 48 tokens. Given: 49"),
]


@pytest.mark.parametrize(("num_tokens", "max_new_tokens", "text"), LENGTHS)
def test_lengths_have_limits(num_tokens, max_new_tokens, text):
    with pytest.raises(ValidationError) as caught:
        check_lengths(num_tokens, GenerateParameters(max_new_tokens=max_new_tokens))
    assert str(caught.value) == text


def test_the_context_length_limits_the_output():
    assert check_lengths(10, GenerateParameters()).max_new_tokens == 54
    assert check_lengths(48, GenerateParameters(max_new_tokens=16)).max_new_tokens == 16


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, False),
        ({"temperature": 1.0}, False),
        ({"temperature": 0.5}, True),
        ({"top_k": 3}, True),
        ({"top_p": 0.5}, True),
        ({"typical_p": 0.5}, True),
        ({"do_sample": True}, True),
        ({"seed": 3, "repetition_penalty": 1.2}, False),
    ],
)
def test_parameters_that_enable_sampling(parameters, expected):
    assert GenerateParameters(**parameters).is_sampling is expected


def test_every_parameter_reaches_the_backend():
    parameters = GenerateParameters(
        temperature=0.5,
        top_k=3,
        top_p=0.5,
        typical_p=0.25,
        repetition_penalty=1.5,
        frequency_penalty=0.5,
        watermark=True,
        top_n_tokens=2,
    )
    assert candidate(parameters).sampling == SamplingParams(
        greedy=False,
        watermark_gamma=0.5,
        watermark_delta=2.0,
        repetition_penalty=1.5,
        relative_frequency_penalty=0.5,
        temperature=0.5,
        top_k=3,
        top_p=0.5,
        typical_p=0.25,
        logprobs="processed",
        top_n_tokens=2,
    )


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (
            GenerateParameters(watermark=True),
            "`watermark` is not supported by the backend `fake`: leave it out",
        ),
        (
            GenerateParameters(typical_p=0.5),
            "`typical_p` is not supported by the backend `fake`: leave it out",
        ),
        (
            GenerateParameters(frequency_penalty=0.5),
            "`frequency_penalty` is not supported by the backend `fake`: leave it out",
        ),
        (GenerateParameters(top_k=17), "`top_k` must be <= 16 with the backend `fake`. Given: 17"),
    ],
)
def test_parameters_that_the_backend_does_not_support_are_rejected_by_name(parameters, text):
    with pytest.raises(ValidationError) as caught:
        check(PARAMETER_RULES, candidate(parameters))
    assert str(caught.value) == text


def test_parameters_that_the_backend_supports_are_accepted():
    check(PARAMETER_RULES, candidate(GenerateParameters(temperature=0.5, top_k=16, top_p=0.5)))


CONSTRAINT = Constraint("json_object")


def guided(request, *features, **config):
    """Apply the rules for guidance to a request, with the features of a backend."""
    changed = dataclasses.replace(CONFIG, **config)
    check(GUIDANCE_RULES, Candidate(request, changed, agreement(features=features)))


def text_request(parameters=None, **fields):
    return TextRequest("hi", parameters or GenerateParameters(), StopStyle.NATIVE, **fields)


@pytest.mark.parametrize("features", [("mask",), ("late_mask",)])
@pytest.mark.parametrize(
    "fields",
    [
        {"parameters": GenerateParameters(grammar=Grammar("regex", b'"a"'))},
        {"constraint": CONSTRAINT},
        {"max_reasoning_tokens": 3},
        {"constraint": CONSTRAINT, "is_constraint_optional": True},
    ],
)
def test_a_backend_with_masks_supports_guidance(features, fields):
    guided(text_request(**fields), *features)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"parameters": GenerateParameters(grammar=Grammar("regex", b'"a"'))}, "grammar"),
        ({"constraint": CONSTRAINT, "constraint_field": "guided_json"}, "guided_json"),
        ({"max_reasoning_tokens": 3}, "thinking_token_budget"),
        (
            {
                "constraint": CONSTRAINT,
                "is_constraint_optional": True,
                "max_reasoning_tokens": 3,
                "reasoning_field": "thinking",
            },
            "thinking",
        ),
    ],
)
def test_guidance_without_masks_is_rejected_with_the_name_of_the_backend(fields, name):
    with pytest.raises(ValidationError) as caught:
        guided(text_request(**fields))
    assert str(caught.value) == f"`{name}` is not supported by the backend `fake`: leave it out"


def test_grammars_can_be_disabled():
    for request in (
        text_request(GenerateParameters(grammar=Grammar("regex", b'"a"'))),
        text_request(constraint=CONSTRAINT),
    ):
        with pytest.raises(ValidationError, match=r"^grammar is not supported$"):
            guided(request, "mask", disable_grammar_support=True)
    guided(text_request(max_reasoning_tokens=1), "mask", disable_grammar_support=True)


def test_an_optional_constraint_is_never_rejected():
    request = text_request(constraint=CONSTRAINT, is_constraint_optional=True)
    guided(request)
    guided(request, "mask", disable_grammar_support=True)
