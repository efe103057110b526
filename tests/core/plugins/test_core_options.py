"""A core option has one meaning: every installed backend accepts a value, or rejects it with the
meaning of the value.
"""

import msgspec
import pytest

from tgi.architectures import load_spec
from tgi.backend import QUANTIZATION_MEANINGS, EngineConfig, reject_option, reject_quantize
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


def test_a_reason_names_option_meaning_backend_and_remedy():
    assert reject_quantize("x", "gptq", ["int8", "int4"]) == (
        "`--quantize gptq` reads checkpoints that were quantized with GPTQ, which the backend `x`"
        " cannot do; serve the unquantized checkpoint with one of int8, int4"
    )
    assert reject_quantize("x", "fp8", ["int8"]).endswith("; use one of int8")
    assert reject_quantize("x", "int8").endswith("; leave it out")
    assert reject_quantize("x", "int3", ["int8"]) == (
        "`--quantize int3` is not a value of this option; use one of int8"
    )
    assert reject_option("x", "num_shard", 2, "use `--num-shard 1`") == (
        "`--num-shard 2` splits the model over 2 devices, which the backend `x` cannot do; use"
        " `--num-shard 1`"
    )
