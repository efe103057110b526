"""The decoder of small hand-made specs: its table of operations, experts, cache and errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.backends.paged_batch import PagedSequence, metadata_of, step
from tgi.architectures import (
    MLP,
    Attention,
    Embedding,
    Head,
    Layer,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    Rope,
    Router,
    Stack,
)
from tgi.architectures.spec import Block, Branch, Part
from tgi.backend import ModelError
from tgi_torch import ops
from tgi_torch.attention.kv_cache import KVCache, bytes_per_block
from tgi_torch.model.decoder import build_decoder


def small_spec(**fields: Any) -> ModelSpec:
    norm = Norm(kind="rms", eps=1e-5)
    rope = Rope(theta=100.0, rotary_dim=4)
    attention = Attention(num_heads=4, num_kv_heads=2, head_dim=4, scale=0.5, rope=rope)
    blocks = (
        Block(branches=(Branch(mixer=attention, norm=norm),)),
        Block(branches=(Branch(mixer=MLP(intermediate_size=12, activation="silu"), norm=norm),)),
    )
    defaults = {
        "model_type": "small",
        "hidden_size": 8,
        "vocab_size": 11,
        "embedding": Embedding(),
        "stacks": (Stack(kind="decoder", layers=(Layer(blocks=blocks),) * 2, final_norm=norm),),
        "head": Head(tied=True),
        "weights": (),
        "max_positions": 64,
    }
    return ModelSpec(**(defaults | fields))


def test_decoder_computes_through_the_table() -> None:
    """The decoder runs every operation that a backend replaces."""
    calls: list[str] = []

    def counted(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(name)
            return operation(*arguments)

        return call

    replaced = {
        field.name: counted(field.name, getattr(ops.REFERENCE, field.name))
        for field in dataclasses.fields(ops.Ops)
    }
    spec = small_spec()
    decoder = build_decoder(
        spec, dataclasses.replace(ops.REFERENCE, **replaced), torch.float32, "cpu"
    )
    for parameter in decoder.parameters.by_parameter.values():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    step(
        decoder,
        KVCache.allocate(spec, 4, 4, torch.float32, "cpu"),
        [(PagedSequence([1, 2, 3], [2]), 3)],
    )
    per_layer = {
        "rms_norm": 2,
        "linear": 4,
        "rotary": 1,
        "write_kv": 1,
        "paged_attention": 1,
        "gated_activation": 1,
    }
    once = {"rms_norm": 1, "linear": 1, "embedding": 1, "plan_attention": 1}
    assert {name: calls.count(name) for name in set(calls)} == {
        name: 2 * per_layer.get(name, 0) + once.get(name, 0) for name in {*per_layer, *once}
    }


def test_experts_are_weighted_and_added() -> None:
    expert = MLP(intermediate_size=6, activation="silu", bias=True)
    moe = MixtureOfExperts(
        num_experts=4,
        experts_per_token=2,
        expert=expert,
        router=Router(),
        shared=MLP(intermediate_size=3, activation="silu"),
        shared_gate=True,
    )
    stack = Stack(kind="decoder", layers=(Layer(blocks=(Block(branches=(Branch(mixer=moe),)),)),))
    decoder = build_decoder(small_spec(stacks=(stack,)), ops.REFERENCE, torch.float32, "cpu")
    generator = torch.Generator().manual_seed(6)
    tensors = decoder.parameters.by_parameter
    for parameter in tensors.values():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    ids = torch.tensor([3, 1, 4])
    x = tensors["embedding.weight"][ids]
    get = {
        parameter.removeprefix("decoder.layers.0.moe."): tensor
        for parameter, tensor in tensors.items()
    }

    def mlp(row: Tensor, part: str, number: int | None = None) -> Tensor:
        def linear(value: Tensor, name: str) -> Tensor:
            weight, bias = get[f"{part}.{name}.weight"], get.get(f"{part}.{name}.bias")
            weight = weight if number is None else weight[number]
            return weight @ value + (
                0 if bias is None else bias if number is None else bias[number]
            )

        return linear(torch.nn.functional.silu(linear(row, "gate")) * linear(row, "up"), "down")

    expected = []
    for row in x:
        share = (get["router.weight"] @ row).softmax(0)
        best = share.topk(2)
        routed = sum(
            w * mlp(row, "experts", int(e))
            for w, e in zip(best.values / best.values.sum(), best.indices, strict=True)
        )
        expected.append(
            row + routed + torch.sigmoid(get["shared_gate.weight"] @ row) * mlp(row, "shared")
        )
    cache = KVCache.allocate(decoder.spec, 1, 4, torch.float32, "cpu")
    actual = decoder.forward(ids, metadata_of([([0], 0, 3)], 4), cache)
    torch.testing.assert_close(actual, torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_cache_sizes_and_copies() -> None:
    spec = small_spec()
    cache = KVCache.allocate(spec, 5, 4, torch.bfloat16, "cpu")
    held = sum(
        side.numel() * side.element_size()
        for layer in cache.layers
        for side in (layer.key, layer.value)
    )
    assert bytes_per_block(spec, 4, torch.bfloat16) * 5 == held == 2 * 2 * 5 * 4 * 2 * 4 * 2
    for layer in cache.layers:
        for block in range(5):
            layer.key[block], layer.value[block] = block, 10 + block
    cache.copy_blocks(torch.tensor([1, 2]), torch.tensor([2, 4]))
    for layer in cache.layers:
        assert layer.key[:, 0, 0, 0].tolist() == [0, 1, 1, 3, 2]
        assert layer.value[:, 0, 0, 0].tolist() == [10, 11, 11, 13, 12]


def test_unsupported_encoder_attention_is_rejected() -> None:
    encoder = Attention(
        num_heads=2, num_kv_heads=2, head_dim=4, scale=0.5, causal=False, alibi=True
    )
    layers = (Layer(blocks=(Block(branches=(Branch(mixer=encoder),)),)),)
    stacks = (Stack(kind="encoder", layers=layers), small_spec().decoder)
    with pytest.raises(ModelError, match="this kind of attention is not implemented for encoders"):
        build_decoder(small_spec(stacks=stacks), ops.REFERENCE, torch.float32, "cpu")


class NewMixer(Part, frozen=True, tag="new_mixer"):
    """A mixer that a later core may have and this library does not support."""


def test_an_unsupported_mixer_is_named() -> None:
    stack = Stack(
        kind="decoder", layers=(Layer(blocks=(Block(branches=(Branch(mixer=NewMixer()),)),)),)
    )
    with pytest.raises(ModelError, match="small: the mixer NewMixer is not supported yet"):
        build_decoder(small_spec(stacks=(stack,)), ops.REFERENCE, torch.float32, "cpu")
