"""A core option has one meaning: every installed backend accepts a value, or rejects it with the
meaning of the value.
"""

import msgspec
import pytest

from tgi.architectures import load_spec
from tgi.backend import QUANTIZATION_MEANINGS, EngineConfig, rejected_options
from tgi.config import OPTIONS, REJECTABLE_OPTIONS, option_meaning
from tgi.plugins import BackendRegistry

CHOICES = {row.name: row.choices for row in OPTIONS}
NUM_SHARDS = (2, 3, 4096)
VALUES = [(name, value) for name in REJECTABLE_OPTIONS for value in (CHOICES[name] or NUM_SHARDS)]
# the options without which a backend supports no model at all here
OWN_OPTIONS = {"tpu": {"platform": "cpu"}}


@pytest.fixture(scope="module")
def registry():
    return BackendRegistry()


def new_reasons(registry, name, model, option, value):
    """The status for a value, and the reasons that it adds to those without the option."""
    spec = load_spec(model)
    plain = EngineConfig(name, str(model), spec, options=OWN_OPTIONS.get(name, {}))
    before = registry.supported(name, spec, plain).support
    config = msgspec.structs.replace(plain, **{option: value})
    after = registry.supported(name, spec, config).support
    return after.status, [reason for reason in after.reasons if reason not in before.reasons]


@pytest.mark.parametrize(("option", "value"), VALUES)
@pytest.mark.parametrize("name", BackendRegistry().names)
def test_a_value_is_accepted_or_rejected_with_its_meaning(
    registry, tiny_model, name, option, value
):
    status, reasons = new_reasons(registry, name, tiny_model, option, value)
    if status == "no":
        assert reasons
        for reason in reasons:
            assert f"`--{option.replace('_', '-')} {value}`" in reason
            assert option_meaning(option, value) in reason
            assert f"the backend `{name}` cannot do" in reason


@pytest.mark.parametrize("name", sorted(set(BackendRegistry().names) & {"cpu", "tpu"}))
@pytest.mark.parametrize("value", ["int8", "eetq", "bitsandbytes"])
def test_8_bit_integers_have_one_name_on_all_our_backends(registry, tiny_model, name, value):
    status, _ = new_reasons(registry, name, tiny_model, "quantize", value)
    assert status != "no"


def test_every_choice_has_a_meaning():
    assert tuple(QUANTIZATION_MEANINGS) == CHOICES["quantize"]
    assert {row.name for row in OPTIONS} >= set(REJECTABLE_OPTIONS)
    meanings = [option_meaning(option, value) for option, value in VALUES]
    assert all(meanings)
    assert option_meaning("quantize", "int3") is None


@pytest.mark.parametrize(
    ("changes", "supported", "reason"),
    [
        (
            {"quantize": "gptq"},
            {"quantize": ("int8", "int4")},
            "`--quantize gptq` reads checkpoints that were quantized with GPTQ, which the backend"
            " `x` cannot do; serve the unquantized checkpoint and use one of int8, int4",
        ),
        (
            {"quantize": "fp8"},
            {"quantize": ("int8",)},
            "`--quantize fp8` rounds the weights to 8-bit floating-point numbers (e4m3) while they"
            " are loaded, which the backend `x` cannot do; use int8",
        ),
        (
            {"quantize": "gptq"},
            {},
            "`--quantize gptq` reads checkpoints that were quantized with GPTQ, which the backend"
            " `x` cannot do; leave it out",
        ),
        (
            {"quantize": "int3"},
            {"quantize": ("int8",)},
            "`--quantize int3` is not a value of this option; use int8",
        ),
        (
            {"num_shard": 2},
            {"max_shards": 1},
            "`--num-shard 2` splits the model over 2 devices, which the backend `x` cannot do; the"
            " maximum is 1",
        ),
    ],
)
def test_a_reason_names_option_meaning_backend_and_remedy(tiny_model, changes, supported, reason):
    config = EngineConfig("x", str(tiny_model), load_spec(tiny_model), **changes)
    assert rejected_options(config, "x", **supported) == (reason,)


def test_supported_values_are_not_rejected(tiny_model):
    spec = load_spec(tiny_model)
    config = EngineConfig("x", str(tiny_model), spec, dtype="float16", num_shard=4)
    assert rejected_options(config, "x", dtypes=("float16",), max_shards=4) == ()
    assert rejected_options(config, "x", dtypes=("float16",), max_shards=None) == ()
    config = EngineConfig("x", str(tiny_model), spec, quantize="int8")
    assert rejected_options(config, "x", quantize=("int8",)) == ()
