"""The code in the decision pages runs without a framework. `tests/backends/cpu` compares it with
real models.
"""

from __future__ import annotations

from collections import defaultdict

import msgspec
import pytest

from tests.core.architectures.decisions import PAGES, run_page
from tgi.architectures import ModelSpec
from tgi.architectures.parameter_names import tensor_shapes

# The default values that `transformers` adds to a config.
DEFAULTS = {
    "0002-spec-t5": {
        "layer_norm_epsilon": 1e-6,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "relu",
        "decoder_start_token_id": 0,
    },
    "0003-spec-deepseek-v3": {
        "rms_norm_eps": 1e-6,
        "rope_interleave": True,
        "attention_bias": False,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 40.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
    },
    "0004-spec-gpt-oss": {
        "rms_norm_eps": 1e-5,
        "attention_bias": True,
        "layer_types": ["sliding_attention", "full_attention"],
        "tie_word_embeddings": False,
    },
    "0005-spec-mamba2": {
        "layer_norm_epsilon": 1e-5,
        "time_step_limit": [0.0, float("inf")],
        "use_conv_bias": True,
        "tie_word_embeddings": False,
    },
    "0006-spec-falcon": {
        "layer_norm_epsilon": 1e-5,
        "bias": False,
        "new_decoder_architecture": False,
        "multi_query": True,
        "parallel_attn": True,
        "alibi": False,
        "tie_word_embeddings": True,
    },
}


def test_every_page_is_tested() -> None:
    assert set(PAGES) == set(DEFAULTS)


@pytest.mark.parametrize("page", PAGES)
def test_spec_is_plain_data_with_a_rule_for_every_parameter(page: str) -> None:
    code = run_page(page)
    for config in code["CONFIGS"]:
        spec = code["spec"](DEFAULTS[page] | config)
        assert msgspec.json.decode(msgspec.json.encode(spec), type=ModelSpec) == spec
        named = defaultdict(int)
        for rule in spec.weights:
            for parameter in rule.parameters:
                for layer in range(max(len(stack.layers) for stack in spec.stacks)):
                    named[parameter.replace("{layer}", str(layer))] = 1
        assert [parameter for parameter in tensor_shapes(spec) if not named[parameter]] == []


def test_first_layer_owns_the_shared_bias() -> None:
    code = run_page("0002-spec-t5")
    shapes = tensor_shapes(code["spec"](DEFAULTS["0002-spec-t5"] | code["CONFIGS"][0]))
    owners = {
        parameter: shape for parameter, shape in shapes.items() if "relative_bias" in parameter
    }
    assert owners == {
        "encoder.layers.0.attention.relative_bias.weight": (32, 4),
        "decoder.layers.0.attention.relative_bias.weight": (32, 4),
    }


def test_yarn_temperature_is_part_of_the_scale() -> None:
    code = run_page("0003-spec-deepseek-v3")
    spec = code["spec"](DEFAULTS["0003-spec-deepseek-v3"] | code["CONFIGS"][0])
    mixer = spec.decoder.layers[0].blocks[0].branches[0].mixer
    # 0.1 * ln(40) + 1 = 1.3688879454113936
    assert mixer.scale == pytest.approx(12**-0.5 * 1.3688879454113936**2)
    assert mixer.rope.scaling.attention_factor == pytest.approx(1.0)
