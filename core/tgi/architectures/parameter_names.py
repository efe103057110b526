"""The names and shapes of a model's parameters, derived from its spec.

A parameter name is `embedding.…`, `{stack}.layers.{i}.{mixer}.…`, `{stack}.layers.{i}.block{b}.…`,
`{stack}.final_norm.…` or `head.…`. Matrices are stored as [out, in], for `x @ W.T`. The experts of
a mixture are stacked to [E, out, in].
"""

from __future__ import annotations

from collections.abc import Iterator

from tgi.architectures.spec import (
    MLP,
    Attention,
    CrossAttention,
    GatedRecurrence,
    LatentAttention,
    LayerInput,
    LearnedPositions,
    LightningAttention,
    LinearAttention,
    Mixer,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    ShortConvolution,
    Stack,
    StateSpace,
)

__all__ = ["layer_parameters", "mixer_of", "mixer_tag", "shard_axis", "tensor_shapes"]

Shape = tuple[int, ...]
Tensors = Iterator[tuple[str, Shape]]

_COLUMN_PARTS = frozenset(
    {
        "q",
        "k",
        "v",
        "gate",
        "up",
        "q_b",
        "kv_b",
        "in_gate",
        "in_x",
        "in_dt",
        "conv_x",
        "dt",
        "beta",
        "decay",
        "input_gate",
        "recurrent_gate",
    }
)
_COLUMN_VECTORS = frozenset({"sinks", "a_log", "skip", "dt_bias", "rate"})
_ROW_PARTS = frozenset({"o", "down", "out", "x_proj"})


def mixer_tag(mixer: Mixer) -> str:
    """The name of a mixer in its parameter names, for example `attention`."""
    tag = mixer.__struct_config__.tag
    assert isinstance(tag, str)
    return tag


def _linear(name: str, rows: int, columns: int, bias: bool = False) -> Tensors:
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)


def _norm(name: str, norm: Norm | None, *shape: int) -> Tensors:
    if norm is None:
        return
    if norm.weight:
        yield f"{name}.weight", shape
    if norm.bias:
        yield f"{name}.bias", shape


def _attention(mixer: Attention, hidden: int, owns_relative_bias: bool) -> Tensors:
    v_dim = mixer.head_dim if mixer.v_head_dim is None else mixer.v_head_dim
    q_rows, k_rows = mixer.num_heads * mixer.head_dim, mixer.num_kv_heads * mixer.head_dim
    yield from _linear("q", q_rows, hidden, mixer.qkv_bias)
    has_cache = mixer.cache_of_layer is None
    if has_cache:
        yield from _linear("k", k_rows, hidden, mixer.qkv_bias)
        yield from _linear("v", mixer.num_kv_heads * v_dim, hidden, mixer.qkv_bias)
    yield from _linear("o", hidden, mixer.num_heads * v_dim, mixer.output_bias)
    q_shape: Shape
    k_shape: Shape
    match mixer.qk_norm_over:
        case "head":
            q_shape = k_shape = (mixer.head_dim,)
        case "each_head":
            q_shape, k_shape = (
                (mixer.num_heads, mixer.head_dim),
                (mixer.num_kv_heads, mixer.head_dim),
            )
        case "all":
            q_shape, k_shape = (q_rows,), (k_rows,)
    yield from _norm("q_norm", mixer.q_norm, *q_shape)
    yield from _norm("k_norm", mixer.k_norm if has_cache else None, *k_shape)
    if mixer.output_gate:
        is_over_heads = mixer.output_gate_over == "head"
        rows = mixer.num_heads * (1 if is_over_heads else v_dim)
        yield from _linear("gate", rows, hidden, mixer.qkv_bias and not is_over_heads)
    if mixer.sinks:
        yield "sinks", (mixer.num_heads,)
    if mixer.relative_bias is not None and owns_relative_bias:
        yield "relative_bias.weight", (mixer.relative_bias.num_buckets, mixer.num_heads)


def _cross_attention(mixer: CrossAttention, hidden: int) -> Tensors:
    rows = mixer.num_heads * mixer.head_dim
    for part in ("q", "k", "v"):
        yield from _linear(part, rows, hidden, mixer.qkv_bias)
    yield from _linear("o", hidden, rows, mixer.output_bias)


def _latent_attention(mixer: LatentAttention, hidden: int) -> Tensors:
    q_rows = mixer.num_heads * (mixer.qk_nope_head_dim + mixer.qk_rope_head_dim)
    if mixer.q_lora_rank is None:
        yield from _linear("q", q_rows, hidden)
    else:
        yield from _linear("q_a", mixer.q_lora_rank, hidden, mixer.qkv_bias)
        yield from _norm("q_a_norm", mixer.norm, mixer.q_lora_rank)
        yield from _linear("q_b", q_rows, mixer.q_lora_rank)
    yield from _linear("kv_a", mixer.kv_lora_rank + mixer.qk_rope_head_dim, hidden, mixer.qkv_bias)
    yield from _norm("kv_a_norm", mixer.norm, mixer.kv_lora_rank)
    yield from _linear(
        "kv_b", mixer.num_heads * (mixer.qk_nope_head_dim + mixer.v_head_dim), mixer.kv_lora_rank
    )
    yield from _linear("o", hidden, mixer.num_heads * mixer.v_head_dim, mixer.output_bias)


def _state_space(mixer: StateSpace, hidden: int) -> Tensors:
    inner, kernel = mixer.inner_size, mixer.conv_kernel
    group_rows = mixer.num_groups * mixer.state_size
    yield from _linear("in_gate", inner, hidden, mixer.proj_bias)
    yield from _linear("in_x", inner, hidden, mixer.proj_bias)
    convolved = {"conv_x": inner}
    if mixer.version == 1:
        yield from _linear("x_proj", mixer.dt_rank + 2 * mixer.state_size, inner)
        yield from _linear("dt", inner, mixer.dt_rank, bias=True)
        yield "a_log", (inner, mixer.state_size)
        yield "skip", (inner,)
        yield from _norm("dt_norm", mixer.inner_norms, mixer.dt_rank)
        yield from _norm("b_norm", mixer.inner_norms, mixer.state_size)
        yield from _norm("c_norm", mixer.inner_norms, mixer.state_size)
    else:
        yield from _linear("in_b", group_rows, hidden, mixer.proj_bias)
        yield from _linear("in_c", group_rows, hidden, mixer.proj_bias)
        yield from _linear("in_dt", mixer.num_heads, hidden, mixer.proj_bias)
        convolved |= {"conv_b": group_rows, "conv_c": group_rows}
        for vector in ("dt_bias", "a_log", "skip"):
            yield vector, (mixer.num_heads,)
        yield from _norm("gated_norm", mixer.norm, inner)
    for part, rows in convolved.items():
        yield f"{part}.weight", (rows, 1, kernel)
        if mixer.conv_bias:
            yield f"{part}.bias", (rows,)
    yield from _linear("out", hidden, inner, mixer.has_out_bias)


def _short_convolution(mixer: ShortConvolution, hidden: int) -> Tensors:
    for part in ("in_gate", "gate", "in_x"):
        yield from _linear(part, mixer.channels, hidden, mixer.bias)
    yield "conv_x.weight", (mixer.channels, 1, mixer.conv_kernel)
    if mixer.bias:
        yield "conv_x.bias", (mixer.channels,)
    yield from _linear("out", hidden, mixer.channels, mixer.bias)


def _linear_attention(mixer: LinearAttention, hidden: int) -> Tensors:
    k_rows, v_rows = (
        mixer.num_key_heads * mixer.key_head_dim,
        mixer.num_value_heads * mixer.value_head_dim,
    )
    for part, rows in {"q": k_rows, "k": k_rows, "v": v_rows, "gate": v_rows}.items():
        yield from _linear(part, rows, hidden)
    for part in ("beta", "decay"):
        yield from _linear(part, mixer.num_value_heads, hidden)
    for part, rows in {"conv_q": k_rows, "conv_k": k_rows, "conv_v": v_rows}.items():
        yield f"{part}.weight", (rows, 1, mixer.conv_kernel)
    for vector in ("dt_bias", "a_log"):
        yield vector, (mixer.num_value_heads,)
    yield from _norm("gated_norm", mixer.norm, mixer.value_head_dim)
    yield from _linear("out", hidden, v_rows)


def _lightning_attention(mixer: LightningAttention, hidden: int) -> Tensors:
    rows = mixer.num_heads * mixer.head_dim
    for part in ("q", "k", "v", "gate"):
        yield from _linear(part, rows, hidden)
    yield from _norm("output_norm", mixer.norm, rows)
    yield from _linear("out", hidden, rows)


def _gated_recurrence(mixer: GatedRecurrence, hidden: int) -> Tensors:
    for part in ("in_gate", "in_x"):
        yield from _linear(part, mixer.channels, hidden, bias=True)
    yield "conv_x.weight", (mixer.channels, 1, mixer.conv_kernel)
    yield "conv_x.bias", (mixer.channels,)
    size = mixer.channels // mixer.num_blocks
    for part in ("input_gate", "recurrent_gate"):
        yield f"{part}.weight", (mixer.num_blocks, size, size)
        yield f"{part}.bias", (mixer.num_blocks, size)
    yield "rate", (mixer.channels,)
    yield from _linear("out", hidden, mixer.channels, bias=True)


def _mlp(mixer: MLP, hidden: int) -> Tensors:
    if mixer.gated:
        yield from _linear("gate", mixer.intermediate_size, hidden, mixer.bias)
    yield from _linear("up", mixer.intermediate_size, hidden, mixer.bias)
    yield from _linear("down", hidden, mixer.intermediate_size, mixer.bias)
    if mixer.activation == "xielu":
        yield "alpha_p", (1,)
        yield "alpha_n", (1,)


def _mixture(mixer: MixtureOfExperts, hidden: int) -> Tensors:
    yield from _linear("router", mixer.num_experts, hidden, mixer.router.bias)
    if mixer.router.correction_bias:
        yield "router.correction", (mixer.num_experts,)
    for parameter, shape in _mlp(mixer.expert, hidden):
        yield f"experts.{parameter}", (mixer.num_experts, *shape)
    if mixer.shared is not None:
        for parameter, shape in _mlp(mixer.shared, hidden):
            yield f"shared.{parameter}", shape
        if mixer.shared_gate:
            yield "shared_gate.weight", (1, hidden)


def _mixer(mixer: Mixer, hidden: int, layer: int) -> Tensors:
    match mixer:
        case Attention():
            owns = mixer.relative_bias is not None and (
                layer == 0 or not mixer.relative_bias.shared
            )
            yield from _attention(mixer, hidden, owns)
        case CrossAttention():
            yield from _cross_attention(mixer, hidden)
        case LatentAttention():
            yield from _latent_attention(mixer, hidden)
        case StateSpace():
            yield from _state_space(mixer, hidden)
        case LinearAttention():
            yield from _linear_attention(mixer, hidden)
        case ShortConvolution():
            yield from _short_convolution(mixer, hidden)
        case GatedRecurrence():
            yield from _gated_recurrence(mixer, hidden)
        case LightningAttention():
            yield from _lightning_attention(mixer, hidden)
        case LayerInput():
            yield from _linear("gate", mixer.size, hidden)
            yield from _linear("out", hidden, mixer.size)
        case MLP():
            yield from _mlp(mixer, hidden)
        case MixtureOfExperts():
            yield from _mixture(mixer, hidden)


def layer_parameters(stack: Stack, layer: int, hidden: int) -> dict[str, Shape]:
    """Parameter names and shapes of one layer. The names do not include the prefix
    `{stack}.layers.{i}.`.
    """
    shapes: dict[str, Shape] = {}
    for index, block in enumerate(stack.layers[layer].blocks):
        shapes.update(_norm(f"block{index}.norm", block.norm, hidden))
        for branch in block.branches:
            tag = mixer_tag(branch.mixer)
            assert not any(parameter.startswith(f"{tag}.") for parameter in shapes), (
                f"layer {layer} has two {tag} mixers"
            )
            shapes.update(_norm(f"{tag}.norm", branch.norm, hidden))
            shapes.update(
                (f"{tag}.{parameter}", shape)
                for parameter, shape in _mixer(branch.mixer, hidden, layer)
            )
            shapes.update(_norm(f"{tag}.post_norm", branch.post_norm, hidden))
        shapes.update(_norm(f"block{index}.output_norm", block.output_norm, hidden))
        if block.output_scale:
            shapes[f"block{index}.output_scale"] = (1,)
    return shapes


def tensor_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Return all parameter names of the model with their shapes. A tied head has no weight."""
    hidden, embedding = spec.hidden_size, spec.embedding
    size = hidden if embedding.size is None else embedding.size
    shapes: dict[str, Shape] = {"embedding.weight": (spec.vocab_size, size)}
    if size != hidden:
        shapes["embedding.projection.weight"] = (hidden, size)
    if isinstance(embedding.positions, LearnedPositions):
        rows = embedding.positions.num_positions + embedding.positions.offset
        shapes["embedding.positions.weight"] = (rows, hidden)
    shapes.update(_norm("embedding.norm", embedding.norm, hidden))
    if embedding.layer_inputs is not None:
        inputs = embedding.layer_inputs
        columns = len(spec.decoder.layers) * inputs.size
        shapes["embedding.layer_inputs.weight"] = (inputs.vocab_size, columns)
        shapes["embedding.layer_projection.weight"] = (columns, hidden)
        shapes.update(_norm("embedding.layer_norm", inputs.norm, inputs.size))
    for stack in spec.stacks:
        for layer in range(len(stack.layers)):
            parameters = layer_parameters(stack, layer, hidden)
            shapes.update(
                (f"{stack.kind}.layers.{layer}.{parameter}", shape)
                for parameter, shape in parameters.items()
            )
        shapes.update(_norm(f"{stack.kind}.final_norm", stack.final_norm, hidden))
    if size != hidden:
        shapes["head.projection.weight"] = (size, hidden)
    if not spec.head.tied:
        shapes["head.weight"] = (spec.vocab_size, size)
    if spec.head.bias:
        shapes["head.bias"] = (spec.vocab_size,)
    return shapes


def mixer_of(parameter: str, spec: ModelSpec) -> Mixer | None:
    """Return the mixer to which a parameter belongs, or None if the parameter is outside the
    mixers.
    """
    parts = parameter.split(".")
    if len(parts) < 4 or parts[1] != "layers":
        return None
    stack = next(stack for stack in spec.stacks if stack.kind == parts[0])
    mixers = (
        branch.mixer for block in stack.layers[int(parts[2])].blocks for branch in block.branches
    )
    return next((mixer for mixer in mixers if mixer_tag(mixer) == parts[3]), None)


def shard_axis(parameter: str) -> int | None:
    """Return the axis along which tensor parallelism divides a parameter: output rows or input
    columns.

    None means that every rank has a copy of the parameter.
    """
    parts = parameter.split(".")
    if parts[0] in {"embedding", "head"}:
        return 0 if parts[1] in {"weight", "bias"} else None
    leading = 1 if "experts" in parts else 0
    part, kind = parts[-2], parts[-1]
    if part == "relative_bias":
        return 1
    if kind in _COLUMN_VECTORS or (part in _COLUMN_PARTS and kind in {"weight", "bias"}):
        return leading
    if part in _ROW_PARTS and kind == "weight":
        return leading + 1
    return None
