"""Builds the list of operations that the native kernels run for a `ModelSpec`.

This module makes all decisions that depend on the spec, so a program has no branches. One program
computes hidden vectors, and a second program computes logits.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tgi.architectures import MLP, Attention, Block, Branch, ModelSpec, SinusoidalPositions
from tgi.architectures.parameter_names import mixer_tag
from tgi.architectures.rope import sinusoidal_table
from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_builder import Array, Kind, ProgramBuilder, Store
from tgi_cpu.native_cache import NativeCache
from tgi_cpu.native_records import OpRecord
from tgi_cpu.native_weights import Float32Array, NativeWeights

__all__ = ["NativeProgram", "build_program"]


@final
@dataclass
class NativeProgram:
    """Operations and all data to which they point."""

    hidden_ops: ctypes.Array[OpRecord]
    num_caching_ops: int  # number of hidden_ops up to the last write of keys and values
    carried: list[Array]  # activations that later operations read: [max tokens, padded columns]
    logits_ops: ctypes.Array[OpRecord]
    hidden: Float32Array  # [max tokens, padded hidden size], after the final norm
    head_input: npt.NDArray[np.uint16]  # [max rows, padded hidden size], bf16
    logits: Float32Array  # [max rows, padded vocab size]
    scratch_floats: int  # floats of scratch memory per thread
    keep_alive: list[object]


def build_program(
    spec: ModelSpec,
    weights: NativeWeights,
    library: NativeLibrary,
    cache: NativeCache,
    *,
    max_tokens: int,
    max_positions: int,
    max_rows: int,
) -> NativeProgram:
    """Allocate buffers and build operations for steps within the limits.

    A step has at most `max_tokens` tokens at positions below `max_positions`, and at most
    `max_rows` rows with logits.
    """
    builder = ProgramBuilder(spec, weights, library, cache, max_tokens, max_positions)
    hidden = builder.buffer("residual", spec.hidden_size, floats=True)
    _embed(builder, hidden)
    for number, layer in enumerate(spec.decoder.layers):
        for place, block in enumerate(layer.blocks):
            prefix = f"{spec.decoder.kind}.layers.{number}"
            _block(builder, block, prefix, f"{prefix}.block{place}", hidden)
    final = builder.buffer("final", spec.hidden_size, floats=True)
    if spec.decoder.final_norm is None:
        final = hidden
    else:
        builder.norm(f"{spec.decoder.kind}.final_norm", spec.decoder.final_norm, hidden, final)
    hidden_ops, builder.ops = builder.ops, []
    head_input = builder.buffer("head input", spec.hidden_size, rows=max_rows)
    logits = builder.buffer("logits", spec.vocab_size, floats=True, rows=max_rows)
    builder.linear(
        "embedding" if spec.head.tied else "head",
        head_input,
        logits,
        Store.FLOAT,
        scale=spec.head.scale,
    )
    num_caching_ops = 1 + max(place for place, op in enumerate(hidden_ops) if op.kind == Kind.QKV)
    return NativeProgram(
        hidden_ops=(OpRecord * len(hidden_ops))(*hidden_ops),
        num_caching_ops=num_caching_ops,
        carried=builder.used_by(hidden_ops[:num_caching_ops], hidden_ops[num_caching_ops:]),
        logits_ops=(OpRecord * len(builder.ops))(*builder.ops),
        hidden=final,
        head_input=head_input,
        logits=logits,
        scratch_floats=builder.scratch_floats,
        keep_alive=[builder.keep_alive, builder.buffers, weights, cache],
    )


def _position_table(builder: ProgramBuilder) -> Array | None:
    """Return the table of position vectors, float32 [rows, hidden]."""
    positions = builder.spec.embedding.positions
    if isinstance(positions, SinusoidalPositions):
        return sinusoidal_table(positions, builder.spec.hidden_size)
    vectors = builder.weights.vectors
    return None if positions is None else vectors["embedding.positions.weight"]


def _embed(builder: ProgramBuilder, hidden: Array) -> None:
    embedding = builder.spec.embedding
    positions = embedding.positions
    table = builder.weights.matrices["embedding"]
    builder.add(
        Kind.EMBED,
        num_columns=builder.spec.hidden_size,
        num_ids=builder.spec.vocab_size,
        num_positions=0 if positions is None else positions.num_positions + positions.offset,
        target=builder.pointer(hidden),
        positions=builder.pointer(_position_table(builder)),
        position_offset=0 if positions is None else positions.offset,
        scale=embedding.scale,
        **table.operand,
    )
    if embedding.norm is not None:
        builder.norm("embedding.norm", embedding.norm, hidden, hidden)


def _block(
    builder: ProgramBuilder, block: Block, layer_prefix: str, prefix: str, hidden: Array
) -> None:
    """Add a residual block.

    All norms come before the first mixer, because all branches read the same input and mixers
    change the residual.
    """
    size = builder.spec.hidden_size
    shared = builder.buffer("normed", size)
    inputs = []
    if block.norm is not None:
        builder.norm(f"{prefix}.norm", block.norm, hidden, shared)
    for place, branch in enumerate(block.branches):
        name = f"{layer_prefix}.{mixer_tag(branch.mixer)}"
        own = shared if branch.norm is None else builder.buffer(f"normed {place}", size)
        if branch.norm is not None:
            builder.norm(f"{name}.norm", branch.norm, hidden, own)
        inputs.append(own)
    for branch, source in zip(block.branches, inputs, strict=True):
        name = f"{layer_prefix}.{mixer_tag(branch.mixer)}"
        _branch(builder, branch, name, source=source, hidden=hidden, scale=block.residual_scale)


def _branch(
    builder: ProgramBuilder,
    branch: Branch,
    prefix: str,
    *,
    source: Array,
    hidden: Array,
    scale: float,
) -> None:
    if isinstance(branch.mixer, Attention):
        name, inner = _attention(builder, branch.mixer, prefix, source)
    else:
        assert isinstance(branch.mixer, MLP)
        name, inner = _mlp(builder, branch.mixer, prefix, source)
    if branch.post_norm is None:
        builder.linear(name, inner, hidden, Store.ACCUMULATE, scale=scale)
        return
    size = builder.spec.hidden_size
    out = builder.buffer("mixed", size, floats=True)
    builder.linear(name, inner, out, Store.FLOAT)
    builder.norm(f"{prefix}.post_norm", branch.post_norm, out, out)
    builder.add(
        Kind.ADD,
        num_columns=size,
        source=builder.pointer(out),
        target=builder.pointer(hidden),
        scale=scale,
    )


def _attention(
    builder: ProgramBuilder, mixer: Attention, prefix: str, source: Array
) -> tuple[str, Array]:
    query_size = mixer.num_heads * mixer.head_dim
    projected = builder.buffer(
        "projected", query_size + 2 * mixer.num_kv_heads * mixer.head_dim, floats=True
    )
    queries = builder.buffer("queries", query_size)
    attended = builder.buffer("attended", query_size)
    record = ctypes.pointer(builder.attention(mixer, prefix))
    builder.linear(f"{prefix}.qkv", source, projected, Store.FLOAT)
    builder.add(
        Kind.QKV,
        source=builder.pointer(projected),
        target=builder.pointer(queries),
        attention=record,
    )
    builder.add(
        Kind.ATTENTION,
        source=builder.pointer(queries),
        target=builder.pointer(attended),
        attention=record,
    )
    return f"{prefix}.o", attended


def _mlp(builder: ProgramBuilder, mixer: MLP, prefix: str, source: Array) -> tuple[str, Array]:
    inner = builder.buffer("activated", mixer.intermediate_size)
    store = Store.GATE if mixer.gated else Store.ACTIVATE
    builder.linear(f"{prefix}.up", source, inner, store, activation=mixer.activation)
    return f"{prefix}.down", inner
