"""From a `ModelSpec` to the list of operations that the native kernels run.

Every branch is taken here; what comes out runs straight through. One program computes hidden
vectors, one the logits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tgi.architectures import (
    MLP,
    Attention,
    Block,
    Branch,
    DynamicScaling,
    LongRopeScaling,
    ModelSpec,
    Norm,
    Rope,
)
from tgi.architectures.parameter_names import mixer_tag
from tgi.architectures.rope import inverse_frequencies
from tgi_cpu.native import (
    BLOCK_TOKENS,
    PANEL_COLUMNS,
    AttentionRecord,
    NativeLibrary,
    OpRecord,
    round_up,
)
from tgi_cpu.native_weights import Float32Array, NativeWeights
from tgi_torch.attention.paged import alibi_slopes

__all__ = ["NativeCache", "NativeProgram", "build_program", "unsupported"]

Array = npt.NDArray[Any]


class Kind(IntEnum):
    """`tgi::Kind`."""

    EMBED = 0
    NORM = 1
    LINEAR = 2
    QKV = 3
    ATTENTION = 4
    ADD = 5


class Store(IntEnum):
    """`tgi::Store`."""

    FLOAT = 0
    ACCUMULATE = 1
    ACTIVATE = 2
    GATE = 3


_ACTIVATIONS = {"silu": 1, "gelu": 2, "gelu_tanh": 3, "relu": 4}
_NORM_KINDS = {"rms": 1, "layer": 2}


def unsupported(spec: ModelSpec) -> tuple[str, ...]:
    """What in `spec` the native kernels do not do; empty if they run it whole."""
    return tuple(dict.fromkeys(_unsupported(spec)))


def _unsupported(spec: ModelSpec) -> Iterator[str]:
    if len(spec.stacks) != 1:
        yield "an encoder"
    if spec.embedding.size not in (None, spec.hidden_size):
        yield "an embedding of another size"
    for block in (block for layer in spec.decoder.layers for block in layer.blocks):
        if block.residual_from_norm or block.output_norm is not None:
            yield "a norm on the residual"
        if block.norm is None and any(branch.norm is None for branch in block.branches):
            yield "a mixer without a norm before it"
        for mixer in (branch.mixer for branch in block.branches):
            if isinstance(mixer, Attention):
                yield from _unsupported_attention(mixer)
            elif not isinstance(mixer, MLP):
                yield f"the mixer {type(mixer).__name__}"
            elif mixer.activation not in _ACTIVATIONS:
                yield f"the activation {mixer.activation}"


def _unsupported_attention(mixer: Attention) -> Iterator[str]:
    if mixer.v_head_dim not in (None, mixer.head_dim) or mixer.head_dim % 2 or mixer.head_dim > 256:
        yield f"heads of size {mixer.head_dim}"
    if (
        mixer.relative_bias is not None
        or mixer.clip_qkv is not None
        or mixer.output_gate
        or not mixer.causal
    ):
        yield "this kind of attention"
    if mixer.qk_norm_over != "head" and mixer.q_norm is not None:
        yield "a query norm over all heads"
    if any(norm is not None and norm.bias for norm in (mixer.q_norm, mixer.k_norm)):
        yield "a query norm with bias"
    if mixer.rope is not None and isinstance(mixer.rope.scaling, DynamicScaling | LongRopeScaling):
        yield "a rotation that depends on the length of the sequence"


@final
@dataclass(frozen=True)
class NativeCache:
    """The key-value cache in the kernels' layout: per layer [blocks][kv heads][what a block holds
    of a head].
    """

    keys: tuple[npt.NDArray[np.uint16], ...]
    values: tuple[npt.NDArray[np.uint16], ...]
    num_blocks: int
    block_size: int = BLOCK_TOKENS

    @classmethod
    def allocate(cls, spec: ModelSpec, num_blocks: int, library: NativeLibrary) -> NativeCache:
        """Reserve `num_blocks` blocks; pages are taken on first use."""

        def reserve(per_block: int) -> npt.NDArray[np.uint16]:
            return (
                library.allocate(2 * num_blocks * per_block)
                .view(np.uint16)
                .reshape(num_blocks, per_block)
            )

        layers = _attentions(spec)
        keys = tuple(
            reserve(layer.num_kv_heads * layer.head_dim * BLOCK_TOKENS) for layer in layers
        )
        sizes = (
            layer.num_kv_heads * round_up(layer.head_dim, PANEL_COLUMNS) * BLOCK_TOKENS
            for layer in layers
        )
        return cls(keys, tuple(map(reserve, sizes)), num_blocks)

    def copy_blocks(self, sources: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> None:
        """Copy whole blocks in every layer; all sources are read before any target is written."""
        for side in (*self.keys, *self.values):
            side[targets] = side[sources]


@final
@dataclass
class NativeProgram:
    """Operations and everything they point to."""

    hidden_ops: ctypes.Array[OpRecord]
    num_caching_ops: int  # the first of these, up to the last that writes keys and values
    carried: list[Array]  # activations that the others read: [max tokens, columns padded] each
    logits_ops: ctypes.Array[OpRecord]
    hidden: Float32Array  # [max tokens, hidden padded]: after the final norm
    head_input: npt.NDArray[np.uint16]  # [max rows, hidden padded], bf16
    logits: Float32Array  # [max rows, vocab padded]
    scratch_floats: int  # working memory of a thread
    keep_alive: list[object]


@final
@dataclass
class _Builder:
    spec: ModelSpec
    weights: NativeWeights
    native: NativeLibrary
    cache: NativeCache
    max_tokens: int
    max_positions: int
    ops: list[OpRecord] = field(default_factory=list)
    keep_alive: list[object] = field(default_factory=list)
    scratch_floats: int = 16
    buffers: dict[str, Array] = field(default_factory=dict)
    _rotations: dict[Rope, tuple[Float32Array, Float32Array]] = field(default_factory=dict)
    _num_attentions: int = 0

    def buffer(
        self, name: str, columns: int, *, floats: bool = False, rows: int | None = None
    ) -> Array:
        """Activations [tokens, columns padded]; the same name and width give the same memory."""
        width = round_up(columns, PANEL_COLUMNS)
        key = f"{name} {width}"
        if key not in self.buffers:
            count = (self.max_tokens if rows is None else rows) * width
            memory = self.native.allocate(count * (4 if floats else 2)).view(
                np.float32 if floats else np.uint16
            )
            self.buffers[key] = memory.reshape(-1, width)
        return self.buffers[key]

    def used_by(self, *parts: list[OpRecord]) -> list[Array]:
        """The buffers that operations of all of these parts read or write."""
        used = [{address for op in part for address in (op.source, op.target)} for part in parts]
        return [
            buffer
            for buffer in self.buffers.values()
            if all(buffer.ctypes.data in addresses for addresses in used)
        ]

    def pointer(self, array: Array | None) -> int | None:
        """Address of `array`, which stays alive as long as the program."""
        if array is None:
            return None
        self.keep_alive.append(array)
        return int(array.ctypes.data)

    def add(self, kind: Kind, **fields: object) -> None:
        """Append an operation."""
        fields.setdefault("scale", 1.0)
        self.ops.append(OpRecord(kind=kind, **fields))

    def linear(
        self,
        name: str,
        source: Array,
        target: Array,
        store: Store,
        *,
        scale: float = 1.0,
        activation: str | None = None,
    ) -> None:
        """Append a product: store(scale * (source x weight + bias)) goes to `target`."""
        matrix = self.weights.matrices[name]
        self.scratch_floats = max(self.scratch_floats, matrix.scratch_floats)
        self.add(
            Kind.LINEAR,
            store=store,
            activation=0 if activation is None else _ACTIVATIONS[activation],
            num_columns=matrix.plan.num_columns,
            num_inputs=matrix.plan.num_inputs,
            bias=self.pointer(self.weights.bias(matrix)),
            source=self.pointer(source),
            target=self.pointer(target),
            scale=scale,
            **matrix.operand,
        )

    def norm(self, parameter: str, norm: Norm | None, source: Array, target: Array) -> None:
        """Append a norm of the hidden size."""
        assert norm is not None, "a branch reads a normed input"
        self.add(
            Kind.NORM,
            norm_kind=_NORM_KINDS[norm.kind],
            num_columns=self.spec.hidden_size,
            weight=self.pointer(self.norm_weight(parameter, norm)),
            bias=self.pointer(self.weights.vectors.get(f"{parameter}.bias")),
            source=self.pointer(source),
            target=self.pointer(target),
            epsilon=norm.eps,
            target_is_float=target.dtype == np.float32,
        )

    def norm_weight(self, parameter: str, norm: Norm) -> Float32Array | None:
        """The factor of a norm, the offset of one included."""
        weight = self.weights.vectors.get(f"{parameter}.weight")
        return weight + np.float32(1) if weight is not None and norm.unit_offset else weight

    def rotation(self, rope: Rope) -> tuple[Float32Array, Float32Array]:
        """Cosines and sines [positions, rotary_dim / 2]."""
        if rope not in self._rotations:
            frequencies, factor = inverse_frequencies(rope, self.max_positions)
            angles = np.outer(
                np.arange(self.max_positions), np.asarray(frequencies, np.float32)
            ).astype(np.float32)
            self._rotations[rope] = (
                np.ascontiguousarray(np.cos(angles) * factor, np.float32),
                np.ascontiguousarray(np.sin(angles) * factor, np.float32),
            )
        return self._rotations[rope]

    def attention(self, mixer: Attention, prefix: str) -> AttentionRecord:
        """The record of the next attention layer."""
        layer, self._num_attentions = self._num_attentions, self._num_attentions + 1
        cosines, sines = (None, None) if mixer.rope is None else self.rotation(mixer.rope)
        q_norm, k_norm = mixer.q_norm, mixer.k_norm
        slopes = None
        if mixer.alibi:
            slopes = (
                alibi_slopes(mixer.num_heads, mixer.alibi_bias_max) * mixer.alibi_scale
            ).numpy()
        record = AttentionRecord(
            num_heads=mixer.num_heads,
            num_kv_heads=mixer.num_kv_heads,
            head_dim=mixer.head_dim,
            rotary_dim=0 if mixer.rope is None else mixer.rope.rotary_dim,
            interleaved=mixer.rope is not None and mixer.rope.interleaved,
            window=mixer.window or 0,
            qk_norm_kind=0 if q_norm is None else _NORM_KINDS[q_norm.kind],
            scale=mixer.scale,
            softcap=mixer.softcap or 0.0,
            qk_norm_epsilon=0.0 if q_norm is None else q_norm.eps,
            q_norm=(
                None
                if q_norm is None
                else self.pointer(self.norm_weight(f"{prefix}.q_norm", q_norm))
            ),
            k_norm=(
                None
                if k_norm is None
                else self.pointer(self.norm_weight(f"{prefix}.k_norm", k_norm))
            ),
            slopes=self.pointer(slopes),
            sinks=self.pointer(self.weights.vectors.get(f"{prefix}.sinks")),
            cosines=self.pointer(cosines),
            sines=self.pointer(sines),
            keys=self.pointer(self.cache.keys[layer]),
            values=self.pointer(self.cache.values[layer]),
        )
        self.scratch_floats = max(self.scratch_floats, self.native.scratch_floats(record))
        self.keep_alive.append(record)
        return record


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
    """Lay out buffers and operations for steps of `max_tokens` tokens at positions below
    `max_positions`.
    """
    builder = _Builder(spec, weights, library, cache, max_tokens, max_positions)
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


def _embed(builder: _Builder, hidden: Array) -> None:
    embedding = builder.spec.embedding
    positions = embedding.positions
    table = builder.weights.matrices["embedding"]
    builder.add(
        Kind.EMBED,
        num_columns=builder.spec.hidden_size,
        target=builder.pointer(hidden),
        positions=(
            None
            if positions is None
            else builder.pointer(builder.weights.vectors["embedding.positions.weight"])
        ),
        position_offset=0 if positions is None else positions.offset,
        scale=embedding.scale,
        **table.operand,
    )
    if embedding.norm is not None:
        builder.norm("embedding.norm", embedding.norm, hidden, hidden)


def _block(builder: _Builder, block: Block, layer_prefix: str, prefix: str, hidden: Array) -> None:
    """All norms come before the first mixer adds to the residual: the branches read the same
    input.
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
    builder: _Builder, branch: Branch, prefix: str, *, source: Array, hidden: Array, scale: float
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
    builder: _Builder, mixer: Attention, prefix: str, source: Array
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


def _mlp(builder: _Builder, mixer: MLP, prefix: str, source: Array) -> tuple[str, Array]:
    inner = builder.buffer("activated", mixer.intermediate_size)
    store = Store.GATE if mixer.gated else Store.ACTIVATE
    builder.linear(f"{prefix}.up", source, inner, store, activation=mixer.activation)
    return f"{prefix}.down", inner


def _attentions(spec: ModelSpec) -> tuple[Attention, ...]:
    mixers = (
        branch.mixer
        for layer in spec.decoder.layers
        for block in layer.blocks
        for branch in block.branches
    )
    return tuple(mixer for mixer in mixers if isinstance(mixer, Attention))
