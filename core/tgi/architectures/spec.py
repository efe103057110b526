"""The records that describe an architecture. They are plain data without model code.

A model is a list of **stacks** (`decoder`, or `encoder` then `decoder`). A stack is a list of
**layers**. A layer is an ordered list of residual **blocks**. A block consists of **branches** that
read the same input. There is one branch, or two for a parallel residual. A branch is one **mixer**
with the norms before and after it:

    y      = norm(x) if the block has a norm, else x
    out    = sum over branches of post_norm(mixer(norm(y)))
    x      = (y if residual_from_norm else x) + residual_scale * out
    x      = output_norm(x) if the block has an output norm

A mixer names the kind of cache that it needs. A model also has rules for embedding and head, and a
**weight map**, which assigns checkpoint tensors to the parameters of the model
(`tgi.architectures.parameter_names`). Backends make decisions that depend on this data only while
they build a model.
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
"""`gelu` is the exact function (erf), `gelu_tanh` its tanh approximation, `gelu_quick` is
x*sigmoid(1.702x), and `silu_clamped` is the clamped gate of gpt_oss.
"""

CacheKind = Literal["none", "full", "window", "state", "cross"]

WeightLayout = Literal["rows", "grouped", "by_head", "alternating", "flat"]


class Norm(Part, frozen=True):
    """A norm over the last dimension. If `unit_offset` is set, the checkpoint contains the weight
    minus 1 (gemma).
    """

    kind: Literal["rms", "layer"]
    eps: float
    bias: bool = False
    weight: bool = True
    unit_offset: bool = False


class Attention(Part, frozen=True, tag="attention"):
    """Self-attention over the cache.

    `window` includes the token itself: a query at p attends to positions p - window + 1 to p.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    v_head_dim: int | None = None  # None means head_dim
    rope: Rope | None = None
    alibi: bool = False
    alibi_scale: float = 1.0  # factor of the slopes; in falcon it is equal to `scale`
    alibi_bias_max: float = 8.0  # the smallest slope is 2^-alibi_bias_max (mpt)
    window: int | None = None
    softcap: float | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    q_norm: Norm | None = None  # applied before the rotary embedding
    k_norm: Norm | None = None
    # each_head: a norm over each head, in which every head has its own weights
    qk_norm_over: Literal["head", "each_head", "all"] = "head"
    clip_qkv: float | None = None
    sinks: bool = False  # each head has a learned logit that takes part in the softmax
    relative_bias: RelativeBias | None = None
    causal: bool = True
    # The heads' outputs are multiplied by a sigmoid of a projection of the input (qwen3_next).
    output_gate: bool = False

    @property
    def cache(self) -> CacheKind:
        """The kind of cache. Attention of an encoder needs no cache."""
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
        """Keys and values of the encoder's output, which are written once."""
        return "cross"


class LatentAttention(Part, frozen=True, tag="latent_attention"):
    """Multi-head latent attention (DeepSeek V2).

    Keys and values are cached as one low-rank vector per token.
    """

    num_heads: int
    q_lora_rank: int | None  # None means a plain query projection
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    scale: float
    rope: Rope
    norm: Norm  # for each of the two low-rank vectors
    qkv_bias: bool = False  # whether the projections to the low ranks have a bias
    output_bias: bool = False

    @property
    def cache(self) -> CacheKind:
        """A vector of kv_lora_rank + qk_rope_head_dim values per token."""
        return "full"


class StateSpace(Part, frozen=True, tag="state_space"):
    """A Mamba mixer.

    Version 1 has a state for each channel and uses `dt_rank`. Version 2 has heads, groups and a
    gated norm.
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
    norm: Norm | None = None  # over each group of the inner vector, after the gate
    norm_before_gate: bool = False
    inner_norms: Norm | None = None  # for dt, B and C (falcon_mamba, jamba)

    @property
    def cache(self) -> CacheKind:
        """A convolution window and a recurrent state per sequence."""
        return "state"


class LinearAttention(Part, frozen=True, tag="linear_attention"):
    """Linear attention with the gated delta rule (qwen3_next)."""

    num_key_heads: int
    num_value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int
    norm: Norm

    @property
    def cache(self) -> CacheKind:
        """A convolution window and a state matrix per sequence."""
        return "state"


class MLP(Part, frozen=True, tag="mlp"):
    """down(activation(gate(x)) * up(x)) if gated, else down(activation(up(x)))."""

    intermediate_size: int
    activation: Activation
    gated: bool = True
    bias: bool = False

    @property
    def cache(self) -> CacheKind:
        """No cache."""
        return "none"


class Router(Part, frozen=True):
    """The rules for the choice and the weights of the experts.

    `score` is applied to the router's logits. With `top_k_first`, `score` is applied only to the
    logits of the chosen experts (gpt_oss; mixtral uses an equivalent formula). With groups, experts
    are chosen from the best `groups_per_token` groups. The score of a group is the sum of the
    scores of its best `group_top` experts. `sparse_mixer` (arXiv 2409.12136, phimoe) chooses one
    expert after the other. The weight of a chosen expert is its softmax probability. This softmax
    includes only the remaining logits whose relative distance to the best remaining logit is at
    most 2 * `jitter`.
    """

    score: Literal["softmax", "sigmoid", "sparse_mixer"] = "softmax"
    top_k_first: bool = False
    normalize: bool = True  # the weights of the chosen experts sum to 1
    scale: float = 1.0
    bias: bool = False
    # This bias is added to the scores by which experts are chosen, but not to their weights.
    correction_bias: bool = False
    num_groups: int = 1
    groups_per_token: int = 1
    group_top: int = 1
    jitter: float = 0.0


class MixtureOfExperts(Part, frozen=True, tag="moe"):
    """A mixture of `num_experts` MLPs of the same shape, of which each token uses some.

    `shared` is an additional MLP that every token uses.
    """

    num_experts: int
    experts_per_token: int
    expert: MLP
    router: Router
    shared: MLP | None = None
    shared_gate: bool = False  # a sigmoid gate for the shared expert (qwen2_moe)

    @property
    def cache(self) -> CacheKind:
        """No cache."""
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
    """One addition to the residual. `norm` is shared by the branches, which may also have norms."""

    branches: tuple[Branch, ...]
    norm: Norm | None = None
    residual_scale: float = 1.0
    residual_from_norm: bool = False
    output_norm: Norm | None = None


class Layer(Part, frozen=True):
    """Blocks in order. A layer has at most one mixer of each kind. The names of the tensors contain
    the tag of the mixer.
    """

    blocks: tuple[Block, ...]


class Stack(Part, frozen=True):
    """Layers in order, then a norm."""

    kind: Literal["decoder", "encoder"]
    layers: tuple[Layer, ...]
    final_norm: Norm | None = None


class Embedding(Part, frozen=True):
    """Token vectors.

    If `size` is not the hidden size, there is a projection after the token vectors and another
    before the head (opt-350m).
    """

    scale: float = 1.0
    size: int | None = None
    positions: LearnedPositions | None = None
    norm: Norm | None = None


class Head(Part, frozen=True):
    """Maps hidden vectors to logits: softcap(scale * (W x + b))."""

    tied: bool
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None


class WeightRule(Part, frozen=True):
    """The mapping from one kind of checkpoint tensor to parameters.

    `name` may contain `{layer}` and either `{expert}` or `{head}`. `parameters` contain `{layer}`
    if the name does. If there are several parameters, the checkpoint tensor is fused and has this
    `layout`:
      rows         the parameters' rows, one parameter after the other
      grouped      for each kv group its query heads, then its key head, then its value head
                   (falcon, gpt_neox, bloom)
      by_head      for each query head its rows of each parameter (qwen3_next)
      alternating  single rows of each parameter in turn (gpt_oss)
    A parameter of all experts may also be stored as
      flat         [E * rows, …], one expert after the other (dbrx)
    `transposed` means stored as [in, out]. `unit_rows` means that the loader divides each row by
    its L2 norm (baichuan 2's head). A rule is ignored in layers that do not have its parameters.
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
    max_positions: int  # 0 means that the model itself has no limit
    # A tensor name in the checkpoint may be a rule's name with one of these prefixes.
    prefixes: tuple[str, ...] = ("",)
    ignored: tuple[str, ...] = ()  # fnmatch patterns of checkpoint tensors that are not parameters
    decoder_start_token_id: int | None = None

    @property
    def decoder(self) -> Stack:
        """The stack that generates tokens."""
        return next(stack for stack in self.stacks if stack.kind == "decoder")


class GenericSpec(Part, frozen=True, tag="generic"):
    """A model of an unknown architecture.

    It contains sizes for the memory estimate, and the whole config for a fallback.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    config: dict[str, Any]
