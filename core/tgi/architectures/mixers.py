"""The records that describe norms and mixers. A mixer is the sublayer of a residual block, such as
attention or an MLP.
"""

from __future__ import annotations

from typing import Literal

from tgi.architectures.positions import Part, PositionScale, RelativeBias, Rope

__all__ = [
    "MLP",
    "XIELU_BETA",
    "XIELU_EPSILON",
    "Activation",
    "Attention",
    "CacheKind",
    "CrossAttention",
    "GatedRecurrence",
    "LatentAttention",
    "LayerInput",
    "LightningAttention",
    "LinearAttention",
    "Mixer",
    "MixtureOfExperts",
    "Norm",
    "Router",
    "ShortConvolution",
    "StateSpace",
]

Activation = Literal[
    "silu", "gelu", "gelu_tanh", "gelu_quick", "relu", "relu_squared", "silu_clamped", "xielu"
]
"""`gelu` is the exact function (erf), `gelu_tanh` its tanh approximation, `gelu_quick` is
x*sigmoid(1.702x), and `silu_clamped` is the clamped gate of gpt_oss. `xielu` (arXiv 2411.13010,
apertus) has two learned values per MLP, which are the parameters `alpha_p` and `alpha_n`.
"""

XIELU_BETA = 0.5
"""The constant beta of `xielu`. Every published model has this value."""

XIELU_EPSILON = -1e-6
"""The maximum of the argument of `expm1` in `xielu`."""

CacheKind = Literal["none", "full", "window", "state", "cross"]


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

    `window` includes the token itself: a query at position p attends to the positions
    p - window + 1 to p. With `chunk`, the positions are divided into chunks of this size, and a
    query attends only to positions of its own chunk. An attention has at most one of the two.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    v_head_dim: int | None = None  # None means head_dim
    # The attention reads the keys and values of this other layer and computes none (gemma4).
    cache_of_layer: int | None = None
    rope: Rope | None = None
    alibi: bool = False
    alibi_scale: float = 1.0  # factor of the slopes; in falcon it is equal to `scale`
    alibi_bias_max: float = 8.0  # the smallest slope is 2^-alibi_bias_max (mpt)
    window: int | None = None
    chunk: int | None = None
    softcap: float | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    q_norm: Norm | None = None  # applied before the rotary embedding by default
    k_norm: Norm | None = None
    v_norm: Norm | None = None  # over each value head, without weights (gemma4)
    # each_head: a norm over each head, in which every head has its own weights
    qk_norm_over: Literal["head", "each_head", "all"] = "head"
    qk_norm_after_rope: bool = False  # the norms are applied after the rotary embedding (hunyuan)
    clip_qkv: float | None = None  # applied before the rotary embedding, after the norms before it
    position_scale: PositionScale | None = None
    sinks: bool = False  # each head has a learned logit that takes part in the softmax
    relative_bias: RelativeBias | None = None
    causal: bool = True
    # The heads' outputs are multiplied by a sigmoid of a projection of the input (qwen3_next). The
    # projection has a value for each value of the outputs, or a value for each head (lfm3).
    output_gate: bool = False
    output_gate_over: Literal["value", "head"] = "value"

    @property
    def cache(self) -> CacheKind:
        """The kind of cache. Attention of an encoder needs no cache."""
        if not self.causal:
            return "none"
        return "full" if self.window is None and self.chunk is None else "window"


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

    Keys and values are cached as one low-rank vector per token. If `index_top_k` is set, a query of
    the model attends only to the `index_top_k` keys that an index chooses (deepseek_v32). The index
    is not implemented. In contexts of at most `index_top_k` tokens, the index would choose all
    keys, so longer contexts are rejected.
    """

    num_heads: int
    q_lora_rank: int | None  # None means a query projection of full rank
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    scale: float
    rope: Rope
    norm: Norm  # for each of the two low-rank vectors
    qkv_bias: bool = False  # whether the projections to the low ranks have a bias
    output_bias: bool = False
    index_top_k: int | None = None

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
    out_bias: bool | None = None  # of the output projection; None means the value of proj_bias

    @property
    def has_out_bias(self) -> bool:
        """Whether the output projection has a bias."""
        return self.proj_bias if self.out_bias is None else self.out_bias

    @property
    def cache(self) -> CacheKind:
        """A convolution window and a recurrent state per sequence."""
        return "state"


class ShortConvolution(Part, frozen=True, tag="short_convolution"):
    """A convolution of each channel over its last `conv_kernel` inputs (lfm2).

    The inputs and the outputs of the convolution are multiplied by projections of the token:
    out(gate(x) * conv(in_gate(x) * in_x(x))).
    """

    channels: int
    conv_kernel: int
    bias: bool = False  # of the projections and of the convolution

    @property
    def cache(self) -> CacheKind:
        """A convolution window per sequence."""
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


class LightningAttention(Part, frozen=True, tag="lightning_attention"):
    """Linear attention with a constant decay for each head (arXiv 2401.04658, minimax).

    state = exp(-rate) * state + k v', where the rate of head h is `decay_scale` * 2^(-8 (h + 1) /
    `num_heads`). The outputs q' state of all heads are normalised and multiplied by a sigmoid of a
    projection of the input. `activation` is applied to q, k and v.
    """

    num_heads: int
    head_dim: int
    activation: Activation
    decay_scale: float
    norm: Norm

    @property
    def rates(self) -> tuple[float, ...]:
        """The rate of each head."""
        exponents = (-8.0 * (head + 1) / self.num_heads for head in range(self.num_heads))
        return tuple(self.decay_scale * 2.0**exponent for exponent in exponents)

    @property
    def cache(self) -> CacheKind:
        """A state matrix per head for each sequence."""
        return "state"


class GatedRecurrence(Part, frozen=True, tag="gated_recurrence"):
    """The recurrent block of Griffin with its RG-LRU (arXiv 2402.19427, recurrent_gemma).

    Each channel has one value as its state. The two gates of the recurrence are block-diagonal
    projections of the convolved input. All projections have a bias.
    """

    channels: int
    num_blocks: int
    conv_kernel: int
    activation: Activation

    @property
    def cache(self) -> CacheKind:
        """A convolution window and one value per channel for each sequence."""
        return "state"


class LayerInput(Part, frozen=True, tag="layer_input"):
    """Adds the input of the layer to the residual: out(activation(gate(x)) * input) (gemma4).

    `Embedding.layer_inputs` describes the inputs of the layers.
    """

    size: int
    activation: Activation

    @property
    def cache(self) -> CacheKind:
        """No cache."""
        return "none"


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
    scores of its best `group_top` experts. `sparse_mixer` (arXiv 2409.12136, phimoe) chooses the
    experts one after the other. The weight of a chosen expert is its softmax probability. This
    softmax includes only the remaining logits whose relative distance to the best remaining logit
    is at most 2 * `jitter`.
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
    """A mixture of `num_experts` MLPs of the same shape, of which each token uses
    `experts_per_token`.

    `shared` is an additional MLP that every token uses. `scale` is a factor of the sum of all
    outputs. With `scale_inputs`, the input of an expert is multiplied by the weight of the expert,
    in place of its output (llama4).
    """

    num_experts: int
    experts_per_token: int
    expert: MLP
    router: Router
    shared: MLP | None = None
    shared_gate: bool = False  # a sigmoid gate for the shared expert (qwen2_moe)
    scale_inputs: bool = False
    scale: float = 1.0  # 0.5 if the experts and the shared expert are averaged (cohere2_moe)

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
    | ShortConvolution
    | GatedRecurrence
    | LightningAttention
    | LayerInput
    | MLP
    | MixtureOfExperts
)
