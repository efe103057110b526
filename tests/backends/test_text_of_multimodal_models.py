"""Models that accept images and whose text model is built in: text alone is served.

The logits are compared with those of the whole model in `transformers`.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from tests.backends.checkpoints import SMALL
from tests.backends.paged_batch import PagedSequence, step
from tests.backends.published_configs import PUBLISHED
from tests.backends.published_hybrids import PUBLISHED_HYBRIDS
from tgi.architectures import ModelSpec, load_spec
from tgi_torch.attention.kv_cache import KVCache
from tgi_torch.model.decoder import build_decoder
from tgi_torch.ops import REFERENCE
from tgi_torch.weights.loading import load_weights

TEXT = SMALL | {"vocab_size": 101}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
MODELS = {
    "mistral3": ("mistral", "pixtral", {}),
    "mistral3+ministral3": ("ministral3", "pixtral", {}),
    "llava": ("llama", "clip_vision_model", {}),
    "llava_next": ("mistral", "clip_vision_model", {}),
    "llava_onevision": ("qwen2", "siglip_vision_model", {}),
    "vipllava": ("llama", "clip_vision_model", {}),
    "internvl": ("qwen2", "internvl_vision", {"image_size": [16, 16], "patch_size": [8, 8]}),
    "idefics3": ("llama", None, {}),
    "smolvlm": ("llama", None, {}),
}
"""`model_type` → the text model, the image model, and other sizes of the image model. After a `+`
is the text model of a second model of this type.
"""


PAIRS = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
)
"""Prefixes of published checkpoints, and of checkpoints that transformers 5 saves."""


def whole_model(family):
    text, vision, sizes = MODELS[family]
    vision_config = VISION | sizes | ({} if vision is None else {"model_type": vision})
    config = AutoConfig.for_model(
        family.split("+")[0],
        text_config=TEXT | {"model_type": text},
        vision_config=vision_config,
        tie_word_embeddings=False,
        image_token_id=100,
        image_token_index=100,
    )
    torch.manual_seed(3)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape) + (parameter.dim() == 1))
    return model


def logits(path, family, tokens):
    spec = load_spec(path)
    assert isinstance(spec, ModelSpec)
    assert spec.model_type == family.split("+")[0]
    decoder = build_decoder(spec, REFERENCE, torch.float32, "cpu")
    load_weights(decoder, path, lambda done, total: None)
    cache = KVCache.allocate(spec, 16, 4, torch.float32, torch.device("cpu"), num_states=4)
    for state in cache.states:
        state.window.zero_()
        state.recurrent.zero_()
    sequence = PagedSequence(tokens, [3, 1])
    step(decoder, cache, [(sequence, len(tokens))])
    return torch.stack(sequence.logits)


@pytest.mark.parametrize("family", MODELS)
def test_the_text_of_a_multimodal_model_has_the_logits_of_the_whole_model(family, tmp_path):
    model = whole_model(family)
    model.save_pretrained(tmp_path)
    tokens = [5, 9, 3, 22, 17, 41, 8]
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([tokens])).logits[0]
        assert torch.allclose(logits(tmp_path, family, tokens), expected, atol=1e-4)
        rename(tmp_path / "model.safetensors")
        assert torch.allclose(logits(tmp_path, family, tokens), expected, atol=1e-4)


def test_the_text_of_qwen2_5_omni_has_the_logits_of_the_thinker(tmp_path):
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    sizes = {"num_heads": 2, "embed_dim": 16, "depth": 1, "intermediate_size": 24}
    config = AutoConfig.for_model(
        "qwen2_5_omni_thinker",
        text_config=TEXT | {"rope_parameters": rope},
        vision_config=sizes
        | {"hidden_size": 16, "out_hidden_size": 32, "fullatt_block_indexes": []},
        audio_config={
            "d_model": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "output_dim": 32,
        },
    )
    torch.manual_seed(3)
    model = Qwen2_5OmniThinkerForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape) + (parameter.dim() == 1))
    model.save_pretrained(tmp_path)
    tokens = [5, 9, 3, 22, 17, 41, 8]
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([tokens])).logits[0]
        actual = logits(tmp_path, "qwen2_5_omni_thinker", tokens)
        assert torch.allclose(actual, expected, atol=1e-4)
        publish_with_talker(tmp_path)
        assert torch.allclose(logits(tmp_path, "qwen2_5_omni", tokens), expected, atol=1e-4)


def test_the_text_of_llama4_has_the_logits_of_the_whole_model(tmp_path):
    sizes = {"num_attention_heads": 2, "intermediate_size": 64, "vision_output_dim": 24}
    projector = {"projector_input_dim": 24, "projector_output_dim": 24}
    config = AutoConfig.for_model(
        "llama4",
        text_config=PUBLISHED["llama4_text"],
        vision_config=VISION | sizes | projector,
    )
    torch.manual_seed(3)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape) + (parameter.dim() == 1))
    model.save_pretrained(tmp_path)
    assert "language_model.lm_head.weight" in load_file(tmp_path / "model.safetensors")
    tokens = [5, 9, 3, 22, 17, 41, 8]
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([tokens])).logits[0]
        assert torch.allclose(logits(tmp_path, "llama4", tokens), expected, atol=1e-4)


def test_the_text_of_gemma4_has_the_logits_of_the_whole_model(tmp_path):
    vision = {"head_dim": 8, "num_key_value_heads": 2, "num_hidden_layers": 1}
    tokens_of_media = {f"{name}_token_id": 99 for name in ("image", "video", "audio")}
    config = AutoConfig.for_model(
        "gemma4",
        text_config=PUBLISHED["gemma4_text"],
        vision_config=VISION | vision,
        **tokens_of_media,
    )
    torch.manual_seed(3)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape) + (parameter.dim() == 1))
    model.save_pretrained(tmp_path)
    assert any("embed_vision" in name for name in load_file(tmp_path / "model.safetensors"))
    tokens = [5, 9, 3, 22, 17, 41, 8]
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([tokens])).logits[0]
        assert torch.allclose(logits(tmp_path, "gemma4", tokens), expected, atol=1e-4)


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_5_moe"])
def test_the_text_of_qwen3_5_has_the_logits_of_the_whole_model(family, tmp_path):
    text = PUBLISHED_HYBRIDS[f"{family}_text"]
    config = AutoConfig.for_model(
        family,
        text_config=text,
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "num_position_embeddings": 16,
            "out_hidden_size": 32,
            "patch_size": 4,
        },
        tie_word_embeddings=False,
    )
    torch.manual_seed(3)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape) + (parameter.dim() == 1))
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    published = published_names(load_file(file))
    assert any(name.startswith("model.language_model.layers.") for name in published)
    tokens = [5, 9, 3, 22, 17, 41, 8]
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([tokens])).logits[0]
        assert torch.allclose(logits(tmp_path, family, tokens), expected, atol=1e-4)
        save_file(published, file, {"format": "pt"})
        assert torch.allclose(logits(tmp_path, family, tokens), expected, atol=1e-4)


def published_names(tensors):
    """Stack the tensors of the experts of each layer, as in the published checkpoints, and add a
    tensor of the layers for multi-token prediction.
    """
    stacked = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    prefixes = {name.split(".experts.")[0] for name in tensors if ".experts." in name}
    for prefix in prefixes:
        count = sum(
            name.startswith(f"{prefix}.experts.") and name.endswith(".up_proj.weight")
            for name in tensors
        )
        gate, up, down = (
            torch.stack(
                [
                    tensors[f"{prefix}.experts.{expert}.{part}_proj.weight"]
                    for expert in range(count)
                ]
            )
            for part in ("gate", "up", "down")
        )
        stacked[f"{prefix}.experts.gate_up_proj"] = torch.cat([gate, up], dim=1)
        stacked[f"{prefix}.experts.down_proj"] = down
    return stacked | {"mtp.fc.weight": torch.zeros(2, 2)}


def publish_with_talker(path):
    """Convert the checkpoint of a thinker to one of the whole model."""
    tensors = load_file(path / "model.safetensors")
    names = {
        name: "thinker." + name.removeprefix("thinker.").replace("model.language_model.", "model.")
        for name in tensors
    }
    whole = {names[name]: tensor for name, tensor in tensors.items()}
    whole["talker.codec_head.weight"] = whole[
        "token2wav.code2wav_bigvgan_model.conv_pre.weight"
    ] = torch.zeros(1)
    save_file({name: tensor.clone() for name, tensor in whole.items()}, path / "model.safetensors")
    file = path / "config.json"
    thinker = json.loads(file.read_text())
    file.write_text(json.dumps({"model_type": "qwen2_5_omni", "thinker_config": thinker}))


def rename(path):
    """Give the tensors the names of the other convention: published checkpoints have
    `language_model.model.`, and checkpoints that transformers 5 saves have `model.language_model.`.
    """
    tensors = load_file(path)
    is_old = any(name.startswith("language_model.") for name in tensors)
    swaps = [(old, new) if is_old else (new, old) for old, new in PAIRS]
    renamed = {new_name(name, swaps): tensor for name, tensor in tensors.items()}
    save_file(renamed, path, {"format": "pt"})


def new_name(name, swaps):
    return next((new + name.removeprefix(old) for old, new in swaps if name.startswith(old)), name)
