"""Words of the grammar that the six families do not use, tried in the numpy reference on families that do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, PretrainedConfig

from tgi.architectures import MLP, Attention, Block, Branch, Embedding, Head, Layer, ModelSpec, Norm, Rope, Stack, WeightRule
from tgi.architectures.llama import linear_rules
from tgi.testing.reference import reference_logits
from tgi.testing.weights import read_weights

TOKEN_IDS = np.random.default_rng(2).integers(0, 64, 24).tolist()
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
}
LAYER, ROLE = "model.layers.{layer}", "decoder.layers.{layer}"


def rules(norms: dict[str, str]) -> tuple[WeightRule, ...]:
    """llama's names for the matrices, and the given ones for a layer's norms."""
    modules = {"model.embed_tokens": "embedding", "model.norm": "decoder.final_norm"}
    modules |= {f"{LAYER}.self_attn.{part}_proj": f"{ROLE}.attention.{part}" for part in "qkvo"}
    modules |= {f"{LAYER}.mlp.{part}_proj": f"{ROLE}.mlp.{part}" for part in ("gate", "up", "down")}
    modules |= {f"{LAYER}.{name}": f"{ROLE}.{role}" for name, role in norms.items()}
    return tuple(rule for name, role in modules.items() for rule in linear_rules(name, role))


def check(config: PretrainedConfig, spec: ModelSpec, path: Path) -> None:
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(path)
        expected = model(torch.tensor([TOKEN_IDS])).logits[0].numpy()
    logits = reference_logits(spec, read_weights(spec, path), TOKEN_IDS)
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits, expected, atol=2e-4, rtol=0)


def test_gemma2(tmp_path: Path) -> None:
    """Unit offset, norms on both sides, embedding scale, soft caps on scores and logits, a window on every other layer."""
    config = Gemma2Config(
        **SIZES,
        head_dim=8,
        query_pre_attn_scalar=10,
        sliding_window=5,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=5.0,
        pad_token_id=0,
        layer_types=["sliding_attention", "full_attention"],
    )
    norm = Norm(kind="rms", eps=config.rms_norm_eps, unit_offset=True)
    mlp = MLP(intermediate_size=40, activation="gelu_tanh")

    def layer(window: int | None) -> Layer:
        attention = Attention(
            num_heads=4,
            num_kv_heads=2,
            head_dim=8,
            scale=10**-0.5,
            rope=Rope(theta=10000.0, rotary_dim=8),
            window=window,
            softcap=3.0,
        )
        branches = (Branch(mixer=mixer, norm=norm, post_norm=norm) for mixer in (attention, mlp))
        return Layer(blocks=tuple(Block(branches=(branch,)) for branch in branches))

    norms = {
        "input_layernorm": "attention.norm",
        "post_attention_layernorm": "attention.post_norm",
        "pre_feedforward_layernorm": "mlp.norm",
        "post_feedforward_layernorm": "mlp.post_norm",
    }
    spec = ModelSpec(
        model_type="gemma2",
        hidden_size=32,
        vocab_size=64,
        embedding=Embedding(scale=32**0.5),
        stacks=(Stack(kind="decoder", layers=(layer(5), layer(None)), final_norm=norm),),
        head=Head(tied=True, softcap=5.0),
        weights=rules(norms),
        max_positions=64,
    )
    check(config, spec, tmp_path)


def test_cohere(tmp_path: Path) -> None:
    """A norm shared by parallel branches, a layer norm without bias, interleaved rotation, a scaled head."""
    config = CohereConfig(**SIZES, logit_scale=0.25, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    norm = Norm(kind="layer", eps=config.layer_norm_eps)
    rope = Rope(theta=config.rope_parameters["rope_theta"], rotary_dim=8, interleaved=True)
    attention = Attention(num_heads=4, num_kv_heads=2, head_dim=8, scale=8**-0.5, rope=rope)
    mlp = MLP(intermediate_size=40, activation="silu")
    layer = Layer(blocks=(Block(branches=(Branch(mixer=attention), Branch(mixer=mlp)), norm=norm),))
    spec = ModelSpec(
        model_type="cohere",
        hidden_size=32,
        vocab_size=64,
        embedding=Embedding(),
        stacks=(Stack(kind="decoder", layers=(layer, layer), final_norm=norm),),
        head=Head(tied=True, scale=0.25),
        weights=rules({"input_layernorm": "block0.norm"}),
        max_positions=64,
    )
    check(config, spec, tmp_path)
