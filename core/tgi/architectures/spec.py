"""The grammar in which every model family is written: plain data, no forward code.

A model is a list of **stacks** (`decoder`, or `encoder` then `decoder`); a stack is a list of
**layers**; a layer is an ordered list of residual **blocks**; a block is one or more **branches**
that read the same input (two for a parallel residual); a branch is one **mixer** with the norms
before and after it:

    y      = norm(x) if the block has one, else x
    out    = sum over branches of post_norm(mixer(norm(y)))
    x      = (y if residual_from_norm else x) + residual_scale * out
    x      = output_norm(x) if the block has one

A mixer names its cache. Beside the stacks stand the embedding and head rules and the **weight
map**: which checkpoint tensor fills which role, a tensor's name in the model
(`tgi.architectures.parameter_names`). A decoder branches on this data only while it builds.
"""

from __future__ import annotations

from typing import Any, Literal

from tgi.architectures.positions import (
    DynamicScaling,
    LearnedPositions,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Part,
    RelativeBias,
    Rope,
    RopeScaling,
    YarnScaling,
)

__all__ = [
    "MLP",
    "Activation",
    "Attention",
    "Block",
    "Branch",
    "CacheKind",
    "CrossAttention",
    "DynamicScaling",
    "Embedding",
    "GenericSpec",
    "Head",
    "LatentAttention",
    "Layer",
    "LearnedPositions",
    "LinearAttention",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "Mixer",
    "MixtureOfExperts",
    "ModelSpec",
    "Norm",
    "RelativeBias",
    "Rope",
    "RopeScaling",
    "Router",
    "Stack",
    "StateSpace",
    "WeightRule",
    "YarnScaling",
]

Activation = Literal[
    "silu", "gelu", "gelu_tanh", "gelu_quick", "relu", "relu_squared", "silu_clamped"
]
"""`gelu` is exact (erf), `gelu_tanh` its tanh form, `gelu_quick` x*sigmoid(1.702x), `silu_clamped`
gpt_oss's clamped gate.
"""

CacheKind = Literal["none", "full", "window", "state", "cross"]

WeightLayout = Literal["rows", "grouped", "by_head", "alternating", "flat"]


class Norm(Part, frozen=True):
    """A norm over the last dimension. `unit_offset`: the weight is stored minus one (gemma)."""

    kind: Literal["rms", "layer"]
    eps: float
    bias: bool = False
    weight: bool = True
    unit_offset: bool = False


class Attention(Part, frozen=True, tag="attention"):
    """Self attention over the cache. `window` counts the token itself: a query at p sees p - window
    + 1 … p.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    v_head_dim: int | None = None  # None = head_dim
    rope: Rope | None = None
    alibi: bool = False
    alibi_scale: float = 1.0  # on the slopes; falcon also multiplies its ALiBi by `scale`
    alibi_bias_max: float = 8.0  # the slopes go down to 2^-max (mpt)
    window: int | None = None
    softcap: float | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    q_norm: Norm | None = None  # before the rotation
    k_norm: Norm | None = None
    qk_norm_over: Literal["head", "each_head", "all"] = (
        "head"  # each_head: every head has weights of its own
    )
    clip_qkv: float | None = None
    sinks: bool = False  # one learned logit per head joins the softmax
    relative_bias: RelativeBias | None = None
    causal: bool = True
    output_gate: bool = (
        False  # the heads' outputs times a sigmoid of a projection of the input (qwen3_next)
    )

    @property
    def cache(self) -> CacheKind:
        """Encoder attention caches nothing."""
        if not self.causal:
            return "none"
        return "full" if self.window is None else "window"


class CrossAttention(Part, frozen=True, tag="cross_attention"):
    """Attention from the decoder to the encoder's output."""

    num_heads: int
    head_dim: int
    scale: float
    qkv_bias: bool = False
    output_bias: bool = False

    @property
    def cache(self) -> CacheKind:
        """Keys and values of the encoder output, written once."""
        return "cross"


class LatentAttention(Part, frozen=True, tag="latent_attention"):
    """Multi-head latent attention (DeepSeek V2): keys and values are kept as one low-rank vector
    per token.
    """

    num_heads: int
    q_lora_rank: int | None  # None = a plain query projection
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    scale: float
    rope: Rope
    norm: Norm  # of the two low-rank vectors
    qkv_bias: bool = False  # on the projections down to the low ranks
    output_bias: bool = False

    @property
    def cache(self) -> CacheKind:
        """kv_lora_rank + qk_rope_head_dim values per token."""
        return "full"


class StateSpace(Part, frozen=True, tag="state_space"):
    """A Mamba mixer. Version 1 has a state per channel and `dt_rank`; version 2 has heads and
    groups and a gated norm.
    """

    version: Literal[1, 2]
    inner_size: int
    state_size: int
    conv_kernel: int
    num_heads: int = 0
    head_dim: int = 0
    num_groups: int = 1
    dt_rank: int = 0
    dt_limit: tuple[float, float] | None = None
    conv_bias: bool = True
    proj_bias: bool = False
    norm: Norm | None = None  # of each group's share of the inner vector, after the gate
    norm_before_gate: bool = False
    inner_norms: Norm | None = None  # on dt, B and C (falcon_mamba, jamba)

    @property
    def cache(self) -> CacheKind:
        """A convolution window and a recurrent state per sequence."""
        return "state"


class LinearAttention(Part, frozen=True, tag="linear_attention"):
    """Gated delta rule (qwen3_next)."""

    num_key_heads: int
    num_value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int
    norm: Norm

    @property
    def cache(self) -> CacheKind:
        """A convolution window and a matrix state per sequence."""
        return "state"


class MLP(Part, frozen=True, tag="mlp"):
    """down(activation(gate(x)) * up(x)) if gated, else down(activation(up(x)))."""

    intermediate_size: int
    activation: Activation
    gated: bool = True
    bias: bool = False

    @property
    def cache(self) -> CacheKind:
        """Stateless."""
        return "none"


class Router(Part, frozen=True):
    """How experts are chosen and weighted.

    `score` is applied to the router's logits; `top_k_first` applies it to the chosen logits only
    (gpt_oss, mixtral's equal form). With groups, only the best `groups_per_token` groups take part;
    a group's score is the sum of its best `group_top` experts. `sparse_mixer` (arXiv 2409.12136,
    phimoe) picks the experts one after the other; the weight of each is its softmax among those of
    the remaining logits whose relative distance to the best is at most 2 * `jitter`.
    """

    score: Literal["softmax", "sigmoid", "sparse_mixer"] = "softmax"
    top_k_first: bool = False
    normalize: bool = True  # chosen weights sum to one
    scale: float = 1.0
    bias: bool = False
    correction_bias: bool = False  # added for choosing, not for weighting
    num_groups: int = 1
    groups_per_token: int = 1
    group_top: int = 1
    jitter: float = 0.0


class MixtureOfExperts(Part, frozen=True, tag="moe"):
    """`experts_per_token` of `num_experts` MLPs of one shape, and perhaps one that every token
    takes.
    """

    num_experts: int
    experts_per_token: int
    expert: MLP
    router: Router
    shared: MLP | None = None
    shared_gate: bool = False  # a sigmoid gate on the shared expert (qwen2_moe)

    @property
    def cache(self) -> CacheKind:
        """Stateless."""
        return "none"


Mixer = (
    Attention
    | CrossAttention
    | LatentAttention
    | StateSpace
    | LinearAttention
    | MLP
    | MixtureOfExperts
)


class Branch(Part, frozen=True):
    """One mixer with its own norms."""

    mixer: Mixer
    norm: Norm | None = None
    post_norm: Norm | None = None


class Block(Part, frozen=True):
    """One residual step. `norm` is shared by the branches; a branch may have its own instead."""

    branches: tuple[Branch, ...]
    norm: Norm | None = None
    residual_scale: float = 1.0
    residual_from_norm: bool = False
    output_norm: Norm | None = None


class Layer(Part, frozen=True):
    """Blocks in order. Within a layer each kind of mixer occurs at most once, so that its tag names
    its tensors.
    """

    blocks: tuple[Block, ...]


class Stack(Part, frozen=True):
    """Layers in order, then a norm."""

    kind: Literal["decoder", "encoder"]
    layers: tuple[Layer, ...]
    final_norm: Norm | None = None


class Embedding(Part, frozen=True):
    """Token vectors. A `size` other than the hidden size means a projection after them and before
    the head (opt-350m).
    """

    scale: float = 1.0
    size: int | None = None
    positions: LearnedPositions | None = None
    norm: Norm | None = None


class Head(Part, frozen=True):
    """Hidden vector to logits: softcap(scale * (W x + b))."""

    tied: bool
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None


class WeightRule(Part, frozen=True):
    """One kind of checkpoint tensor.

    `name` may hold `{layer}` and `{expert}` or `{head}`; `parameters` hold `{layer}` where the name
    does. Several roles mean a fused tensor:
      rows         the roles' rows one after the other
      grouped      per kv group: its query heads, then its key head, then its value head
                   (falcon, gpt_neox, bloom)
      by_head      per query head: its rows of each role (qwen3_next)
      alternating  rows of the roles in turn, one by one (gpt_oss)
    and one role of all experts may be stored as
      flat         [E * rows, …], the experts one after the other (dbrx)
    `transposed`: stored as [in, out]. `unit_rows`: a loader divides each row by its length
    (baichuan 2's head). A rule whose roles a layer does not have is passed over.
    """

    name: str
    parameters: tuple[str, ...]
    layout: WeightLayout = "rows"
    transposed: bool = False
    unit_rows: bool = False


class ModelSpec(Part, frozen=True, tag="model"):
    """A whole model as data."""

    model_type: str
    hidden_size: int
    vocab_size: int
    embedding: Embedding
    stacks: tuple[Stack, ...]
    head: Head
    weights: tuple[WeightRule, ...]
    max_positions: int  # 0 = no limit of the model's own
    prefixes: tuple[str, ...] = (
        "",
    )  # a checkpoint's names may start with one of these before a rule's name
    ignored: tuple[str, ...] = ()  # fnmatch patterns of checkpoint tensors that carry no parameter
    decoder_start_token_id: int | None = None

    @property
    def decoder(self) -> Stack:
        """The stack that generates."""
        return next(stack for stack in self.stacks if stack.kind == "decoder")


class GenericSpec(Part, frozen=True, tag="generic"):
    """A family this project does not know: sizes for the memory arithmetic, and the raw config for
    a fallback runner.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    config: dict[str, Any]
