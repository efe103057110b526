"""Checkpoints with harmless left-overs are loaded, and others are rejected with their cause."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.backends.torch.test_weights import (
    EMBEDDING,
    NAME,
    QUERY,
    assert_same_parameters,
    change,
    load,
    split_into_shards,
)
from tgi.architectures.left_over import HARMLESS
from tgi.backend import ModelError

INDEX = "model.safetensors.index.json"
EXAMPLES = {
    "v_head.*": ["v_head.summary.weight", "v_head.summary.bias"],
    "*._extra_state": ["model.layers.0.self_attn._extra_state"],
    "*attn.[kv]_scale": ["model.layers.0.self_attn.k_scale", "model.layers.1.self_attn.v_scale"],
    "*attention.[kv]_scale": ["transformer.h.0.attention.k_scale"],
    "*attn.kv_scale": ["model.layers.0.self_attn.kv_scale"],
    "*position_ids": ["model.position_ids", "position_ids"],
    "*.inv_freq": ["model.rotary_emb.inv_freq", "model.layers.1.self_attn.rotary_emb.inv_freq"],
    "*rotary*.cos_cached": ["model.layers.0.self_attn.rotary_emb.cos_cached"],
    "*rotary*.sin_cached": ["model.layers.0.self_attn.rotary_emb.sin_cached"],
}
PREFIXES = ("_orig_mod.", "module.", "base_model.model.", "module._orig_mod.", "_orig_mod.module.")


def write_index(path: Path, edit: Callable[[dict[str, str]], object]) -> None:
    """Split the checkpoint into two files, and change their index."""
    index = split_into_shards(path, load_file(path / NAME))
    edit(index)
    (path / INDEX).write_text(json.dumps({"weight_map": index}))


def add_consolidated(path: Path) -> None:
    split_into_shards(path, load_file(path / NAME))
    save_file({"tok_embeddings.weight": torch.ones(2)}, path / "consolidated.safetensors")
    save_file({"tok_embeddings.weight": torch.ones(2)}, path / "consolidated.00.safetensors")


def add_adapter(path: Path) -> None:
    split_into_shards(path, load_file(path / NAME))
    save_file({"lora_A.weight": torch.ones(2)}, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text("{}")


def rename(prefix: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        tensors = load_file(path / NAME)
        save_file({prefix + name: tensor for name, tensor in tensors.items()}, path / NAME)

    return edit


def add(*names: str, value: Tensor | None = None) -> Callable[[Path], None]:
    tensor = torch.ones(3) if value is None else value
    return lambda path: change(path, lambda t: t.update({name: tensor.clone() for name in names}))


def other_shard(index: dict[str, str]) -> None:
    index[EMBEDDING] = next(file for file in index.values() if file != index[EMBEDDING])


LOADED: dict[str, Callable[[Path], object]] = {
    **{f"tensors {pattern}": add(*names) for pattern, names in EXAMPLES.items()},
    **{f"prefix {prefix}": rename(prefix) for prefix in PREFIXES},
    "a bias of zeros": add(QUERY.replace("weight", "bias"), value=torch.zeros(32)),
    "an index entry without a tensor": lambda p: write_index(
        p, lambda index: index.update({"gone.weight": next(iter(index.values()))})
    ),
    "a tensor in the other shard": lambda p: write_index(p, other_shard),
    "the original weights beside shards": add_consolidated,
    "an adapter beside shards": add_adapter,
}


def test_each_pattern_has_an_example() -> None:
    assert EXAMPLES.keys() == HARMLESS.keys()


@pytest.mark.parametrize("case", LOADED)
def test_harmless_left_overs_do_not_prevent_loading(
    original: Path, checkpoint: Path, case: str
) -> None:
    LOADED[case](checkpoint)
    assert_same_parameters(load(checkpoint), load(original))


REFUSED: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "a bias that is not zero": (
        add(QUERY.replace("weight", "bias"), value=torch.eye(32)[0]),
        ["does not have", QUERY.replace("weight", "bias")],
    ),
    "a scale of a quantized weight": (
        add(QUERY.replace("weight", "weight_scale")),
        ["does not have", "weight_scale"],
    ),
    "a classifier": (
        lambda p: change(p, lambda t: t.update({"score.weight": t.pop("lm_head.weight")})),
        ["the head of a classifier or a reward model (`score.weight`)", "generates text"],
    ),
    "a classifier with a head": (add("score.weight"), ["classifier or a reward model"]),
    "question answering": (add("qa_outputs.weight"), ["question answering"]),
    "an encoder": (add("cls.predictions.bias"), ["the head of an encoder"]),
    "an adapter that is not merged": (
        add("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"),
        ["unmerged LoRA matrices", "merge_and_unload"],
    ),
    "a needed tensor that only the index has": (
        lambda p: (change(p, lambda t: t.pop(QUERY)), write_index(p, lambda i: None)),
        [f"no tensor `{QUERY.removeprefix('model.')}`", "model.layers.0.self_attn.q_proj.weight"],
    ),
    "other names": (
        rename("encoder."),
        ["no tensor `", "for example `encoder.", "embed_tokens.weight`"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_checkpoints_are_rejected_with_their_cause(checkpoint: Path, case: str) -> None:
    edit, words = REFUSED[case]
    edit(checkpoint)
    with pytest.raises(ModelError) as caught:
        load(checkpoint)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    for word in words:
        assert word in str(caught.value)


def test_gguf_files_are_not_to_be_converted(checkpoint: Path) -> None:
    (checkpoint / NAME).rename(checkpoint / "model.gguf")
    with pytest.raises(ModelError, match="only GGUF files") as caught:
        load(checkpoint)
    assert "tgi convert" not in str(caught.value)
