"""The decoder compared with the numpy reference, for specs that no supported family uses."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from tests.backends.paged_batch import PagedSequence, step
from tgi.architectures import (
    MLP,
    Attention,
    Block,
    Branch,
    DynamicScaling,
    Embedding,
    Head,
    Layer,
    LearnedPositions,
    LongRopeScaling,
    Mixer,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    Rope,
    Router,
    Stack,
)
from tgi.testing.reference.model import reference_logits
from tgi_torch.attention.kv_cache import KVCache
from tgi_torch.model.decoder import build_decoder
from tgi_torch.ops import REFERENCE

LENGTH = 19
RMS = Norm(kind="rms", eps=1e-5)
LAYER_NORM = Norm(kind="layer", eps=1e-5, bias=True)
BARE_LAYER_NORM = Norm(kind="layer", eps=1e-5)
OFFSET = Norm(kind="rms", eps=1e-6, unit_offset=True)
ROPE = Rope(theta=100.0, rotary_dim=8)
ATTENTION = Attention(num_heads=4, num_kv_heads=2, head_dim=8, scale=0.4, rope=ROPE)
PLAIN_MLP = MLP(intermediate_size=24, activation="gelu_quick", gated=False, bias=True)
GATED_MLP = MLP(intermediate_size=24, activation="silu")
EXPERTS = MixtureOfExperts(num_experts=4, experts_per_token=2, expert=GATED_MLP, router=Router())


def block(*mixers: Mixer, norm: Norm | None = RMS, **fields: Any) -> Block:
    """Build a block whose branches share the input. `fields` are those of `Block`."""
    return Block(branches=tuple(Branch(mixer=mixer, norm=norm) for mixer in mixers), **fields)


def model(*blocks: Block, **fields: Any) -> ModelSpec:
    """Build a model with two equal layers of `blocks`."""
    stack = Stack(kind="decoder", layers=(Layer(blocks=blocks),) * 2, final_norm=RMS)
    defaults: dict[str, Any] = {
        "model_type": "test",
        "hidden_size": 16,
        "vocab_size": 31,
        "embedding": Embedding(),
        "stacks": (stack,),
        "head": Head(tied=False),
        "weights": (),
        "max_positions": 0,
    }
    return ModelSpec(**(defaults | fields))


def with_attention(**fields: Any) -> ModelSpec:
    return model(block(msgspec.structs.replace(ATTENTION, **fields)), block(GATED_MLP))


def with_experts(**fields: Any) -> ModelSpec:
    return model(block(ATTENTION), block(msgspec.structs.replace(EXPERTS, **fields)))


POST = Block(branches=(Branch(mixer=ATTENTION, norm=OFFSET, post_norm=OFFSET),))
LONG_ROPE = LongRopeScaling(
    short_factor=(1.0, 1.1, 1.2, 1.3),
    long_factor=(2.0, 3.0, 4.0, 5.0),
    original_max_positions=8,
    attention_factor=1.19,
)
LOCAL = msgspec.structs.replace(ATTENTION, window=4, rope=Rope(theta=10.0, rotary_dim=4))
GLOBAL = Layer(blocks=(block(ATTENTION),))
NARROW = Layer(
    blocks=(block(msgspec.structs.replace(ATTENTION, num_kv_heads=4, head_dim=4, rope=None)),)
)

SPECS: dict[str, ModelSpec] = {
    "interleaved": with_attention(rope=Rope(theta=100.0, rotary_dim=4, interleaved=True)),
    "longrope": with_attention(rope=Rope(theta=100.0, rotary_dim=8, scaling=LONG_ROPE)),
    "longrope, long factor": with_attention(
        rope=Rope(
            theta=100.0,
            rotary_dim=8,
            scaling=msgspec.structs.replace(LONG_ROPE, long_attention_factor=1.4),
        )
    ),
    "dynamic": with_attention(
        rope=Rope(
            theta=100.0, rotary_dim=8, scaling=DynamicScaling(factor=2.0, original_max_positions=8)
        )
    ),
    "alibi": with_attention(rope=None, alibi=True, alibi_scale=0.4),
    "alibi of another depth": with_attention(
        rope=None, alibi=True, alibi_bias_max=16.0, num_heads=6
    ),
    "softcap and window": with_attention(softcap=0.7, window=5),
    "sinks": with_attention(sinks=True, window=6, qkv_bias=True, output_bias=True),
    "clip": with_attention(clip_qkv=0.3),
    "norm over all heads": with_attention(q_norm=RMS, k_norm=RMS, qk_norm_over="all"),
    "layer norm over heads": with_attention(q_norm=LAYER_NORM, k_norm=LAYER_NORM),
    "norms for each head": with_attention(
        q_norm=BARE_LAYER_NORM, k_norm=BARE_LAYER_NORM, qk_norm_over="each_head"
    ),
    "rms norms for each head": with_attention(q_norm=RMS, k_norm=RMS, qk_norm_over="each_head"),
    "norm of queries only": with_attention(q_norm=RMS),
    "other value size": with_attention(v_head_dim=5),
    "one kv head": with_attention(num_kv_heads=1),
    "unit offset and post norms": model(POST, block(GATED_MLP, norm=OFFSET)),
    "norm without weight": model(
        block(ATTENTION, norm=Norm(kind="layer", eps=1e-5, weight=False)), block(GATED_MLP)
    ),
    "rms without weight": model(
        block(ATTENTION, norm=Norm(kind="rms", eps=1e-5, weight=False)), block(PLAIN_MLP)
    ),
    "parallel, shared norm": model(
        Block(branches=(Branch(mixer=ATTENTION), Branch(mixer=PLAIN_MLP)), norm=LAYER_NORM)
    ),
    "norm after the sum": model(
        block(ATTENTION, norm=None, output_norm=LAYER_NORM),
        block(PLAIN_MLP, norm=None, output_norm=RMS),
    ),
    "residual from the norm, scaled": model(
        Block(
            branches=(Branch(mixer=ATTENTION),),
            norm=LAYER_NORM,
            residual_from_norm=True,
            residual_scale=0.3,
        ),
        block(GATED_MLP),
    ),
    "layers that differ": model(
        stacks=(Stack(kind="decoder", layers=(Layer(blocks=(block(LOCAL),)), GLOBAL, NARROW)),)
    ),
    "learned positions": model(
        block(msgspec.structs.replace(ATTENTION, rope=None)),
        embedding=Embedding(
            scale=4.0, positions=LearnedPositions(num_positions=20, offset=2), norm=LAYER_NORM
        ),
    ),
    "projected embedding": model(
        block(ATTENTION), embedding=Embedding(size=10), head=Head(tied=True)
    ),
    "head": model(block(ATTENTION), head=Head(tied=False, bias=True, scale=0.5, softcap=0.8)),
    "scaled head": model(block(ATTENTION), head=Head(tied=True, scale=0.25)),
    "experts": with_experts(),
    "experts, grouped": with_experts(
        router=Router(score="sigmoid", correction_bias=True, num_groups=2, group_top=2, scale=1.5),
        shared=GATED_MLP,
    ),
    "experts, one after the other": with_experts(
        router=Router(score="sparse_mixer", jitter=0.3, normalize=False, scale=1.5)
    ),
    "experts, clamped": with_experts(
        expert=MLP(intermediate_size=24, activation="silu_clamped", bias=True),
        router=Router(top_k_first=True, normalize=False, bias=True),
        shared=PLAIN_MLP,
        shared_gate=True,
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_equals_the_reference(name: str) -> None:
    spec = SPECS[name]
    decoder = build_decoder(spec, REFERENCE, torch.float32, "cpu")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in decoder.parameters.by_parameter.items():
        drawn = torch.randn(parameter.shape, generator=generator)
        is_norm_weight = name.endswith("norm.weight")
        parameter.copy_(1 + 0.1 * drawn if is_norm_weight else 0.3 * drawn)
    weights = {
        name: parameter.numpy() for name, parameter in decoder.parameters.by_parameter.items()
    }
    rng = random.Random(1)
    sequence = PagedSequence(
        [rng.randrange(spec.vocab_size) for _ in range(LENGTH)], rng.sample(range(1, 8), 5)
    )
    cache = KVCache.allocate(spec, 8, 4, torch.float32, "cpu")
    for layer in cache.layers:
        layer.key.fill_(float("nan"))
        layer.value.fill_(float("nan"))
    grows = any(table.original_length is not None for table in decoder.rotary_tables)
    for count in [LENGTH] if grows else [7, 1, 1, 9, 1]:
        step(decoder, cache, [(sequence, count)])
    expected = reference_logits(spec, weights, sequence.token_ids)
    np.testing.assert_allclose(torch.stack(sequence.logits).numpy(), expected, atol=1e-4, rtol=1e-4)
