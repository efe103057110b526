"""The settings of a format select the layout of each module, or are rejected by name."""

import numpy as np
import pytest

from tests.core.checkpoints.formats import byte_layouts, layouts
from tests.core.checkpoints.formats.layouts import MODULE, WEIGHT, format_of
from tests.core.checkpoints.formats.memory_checkpoint import MemoryCheckpoint
from tgi.checkpoints.quantized import CodeKind
from tgi.errors import ModelError

INT8 = {"num_bits": 8, "type": "int", "strategy": "channel"}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel"}


def compressed(groups, **others):
    base = {"quant_method": "compressed-tensors", "format": "naive-quantized"}
    return format_of(base | {"config_groups": groups} | others)


def group(targets, weights, **others):
    return {"targets": targets, "weights": weights} | others


def mixed_checkpoint():
    """The module `up_proj` has int8 weights, and the module `down_proj` has fp8 weights."""
    integers, floats = layouts.int8_per_output(), layouts.compressed_fp8("channel")
    other = {
        name.replace("up_proj", "down_proj"): array
        for name, array in floats.checkpoint.arrays.items()
    }
    down = WEIGHT.replace("up_proj", "down_proj")
    return MemoryCheckpoint.of(integers.checkpoint.arrays | other, {down: "F8_E4M3"})


@pytest.mark.parametrize(
    "target", ["re:.*down_proj$", "model.layers.0.mlp.down_proj"], ids=["pattern", "name"]
)
def test_a_name_or_a_pattern_has_precedence_over_a_class(target):
    form = compressed({"a": group(["Linear"], INT8), "b": group([target], FP8)})
    tensors = mixed_checkpoint().tensors(form)
    kinds = {name.split(".")[-2]: tensor.format.kind for name, tensor in tensors.items()}
    assert kinds == {"up_proj": CodeKind.INTEGER, "down_proj": CodeKind.E4M3}


def test_a_group_may_have_its_own_layout():
    packed, integers = layouts.packed_integers(), layouts.int8_per_output()
    down = {
        name.replace("up_proj", "down_proj"): array
        for name, array in integers.checkpoint.arrays.items()
    }
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 8}
    form = compressed(
        {
            "a": group(["re:.*up_proj"], weights, format="pack-quantized"),
            "b": group(["re:.*down_proj"], INT8, format="int-quantized"),
        },
        format="mixed-precision",
    )
    scale = {f"{MODULE}.weight_scale": "BF16"}
    checkpoint = MemoryCheckpoint.of(packed.checkpoint.arrays | down, scale)
    bits = {name: tensor.format.bits for name, tensor in checkpoint.tensors(form).items()}
    assert bits == {WEIGHT: 4, WEIGHT.replace("up_proj", "down_proj"): 8}


def test_the_description_names_scheme_and_cache():
    form = compressed({"a": group(["Linear"], FP8)}, kv_cache_scheme={"type": "float"})
    assert form.description == (
        "compressed-tensors naive-quantized, fp8 per output, KV cache scheme float"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "marlin-24"}, "sparse"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24-bitmask"),
        ({"format": "unknown"}, "`format` must be one of"),
        ({"quantization_status": "initialized"}, "`quantization_status`"),
        ({"config_groups": {"a": group(["Linear"], FP8 | {"strategy": "token"})}}, "`strategy`"),
        ({"config_groups": {"a": group(["Linear"], INT8 | {"num_bits": 16})}}, "`num_bits`"),
        ({"config_groups": {"a": group(["Linear"], {"strategy": "group"})}}, "`group_size`"),
        ({"config_groups": {"a": group(["Linear"], {"strategy": "block"})}}, "`block_structure`"),
    ],
)
def test_a_setting_that_is_not_supported_is_named(settings, message):
    with pytest.raises(ModelError, match=message):
        compressed(settings.pop("config_groups", {}), **settings)


def test_packed_integers_of_other_bits_are_rejected():
    weights = {"num_bits": 3, "type": "int", "strategy": "group", "group_size": 8}
    form = layouts.compressed_config("pack-quantized", weights)
    with pytest.raises(ModelError, match=r"2, 4, 8 bits are supported"):
        layouts.packed_integers().checkpoint.tensors(form)


def test_an_ignored_module_with_quantized_tensors_is_an_error():
    form = compressed({"a": group(["Linear"], INT8)}, ignore=["re:.*up_proj"])
    with pytest.raises(ModelError, match=rf"`{MODULE}` has quantized tensors, but `ignore`"):
        layouts.int8_per_output().checkpoint.tensors(form)


def test_a_module_without_a_group_is_an_error():
    form = compressed({"a": group(["re:.*down_proj"], INT8)})
    with pytest.raises(ModelError, match=rf"`{MODULE}` has quantized tensors, but no group"):
        layouts.int8_per_output().checkpoint.tensors(form)


def test_a_pattern_that_is_no_regular_expression_is_named():
    form = compressed({"a": group(["re:("], INT8)})
    with pytest.raises(ModelError, match=r"`re:\(` in config.json is not a regular expression"):
        layouts.int8_per_output().checkpoint.tensors(form)


@pytest.mark.parametrize("key", ["modules_to_not_convert", "ignored_layers"])
def test_an_excluded_fp8_module_with_fp8_weights_is_an_error(key):
    form = format_of({"quant_method": "fp8", key: ["up_proj"]})
    with pytest.raises(ModelError, match=f"`{WEIGHT}` is quantized, but config.json lists"):
        layouts.fp8_static().checkpoint.tensors(form)


def test_unquantized_weights_remain_ordinary_tensors():
    weight = np.zeros((4, 4), np.float32)
    for method in ("bitsandbytes", "eetq", "exl2", "fp8", "mxfp4", "torchao"):
        form = format_of({"quant_method": method})
        assert MemoryCheckpoint.of({"lm_head.weight": weight}).tensors(form) == {}


def test_a_bitsandbytes_layout_of_a_device_is_rejected():
    layout = layouts.bitsandbytes_int8()
    name = f"{MODULE}.weight_format"
    changed = layout.checkpoint.changed(**{name: np.array(2, np.uint8)})
    with pytest.raises(ModelError, match=r"has the bitsandbytes layout 2"):
        changed.tensors(layout.form)


def test_another_table_of_bitsandbytes_is_rejected():
    layout = byte_layouts.bitsandbytes_4bit()
    table = np.linspace(-1, 1, 16, dtype=np.float32)
    changed = layout.checkpoint.changed(**{f"{WEIGHT}.quant_map": table})
    with pytest.raises(ModelError, match="is not the table of nf4"):
        changed.tensors(layout.form)


def test_scaled_inputs_of_torchao_are_rejected():
    layout = byte_layouts.torchao_int8()
    name = f"{MODULE}._weight_act_pre_scale"
    changed = layout.checkpoint.changed(**{name: np.ones(12, np.float32)})
    with pytest.raises(ModelError, match="multiplies the inputs of a quantized weight"):
        MemoryCheckpoint.of(changed.arrays).tensors(layout.form)


def test_an_order_with_unequal_groups_is_rejected():
    layout = layouts.packed_integers(order=True)
    name = f"{MODULE}.weight_g_idx"
    changed = layout.checkpoint.changed(**{name: np.zeros(32, np.int32)})
    with pytest.raises(ModelError, match="must contain each group 8 times"):
        changed.tensors(layout.form)


def test_an_order_that_is_not_used_is_no_order():
    layout = layouts.packed_integers()
    name = f"{MODULE}.weight_g_idx"
    for groups in (np.full(32, -1, np.int32), np.arange(32, dtype=np.int32) // 8):
        arrays = layout.checkpoint.arrays | {name: groups}
        checkpoint = MemoryCheckpoint.of(arrays, {f"{MODULE}.weight_scale": "BF16"})
        tensor = checkpoint.tensors(layout.form)[WEIGHT]
        assert not tensor.format.has_input_order
        np.testing.assert_array_equal(checkpoint.decode(tensor).dequantize(), layout.weights)
