"""The records that describe an architecture. They are plain data without model code.

A model is a list of **stacks** (`decoder`, or `encoder` then `decoder`). A stack is a list of
**layers**. A layer is an ordered list of residual **blocks**. A block consists of **branches** that
read the same input. There is one branch, or two for a parallel residual. A branch is one **mixer**
with the norms before and after it:

    y      = norm(x) if the block has a norm, else x
    out    = sum over branches of post_norm(mixer(norm(y)))
    x      = input_scale * (y if residual_from_norm else x) + residual_scale * out
    x      = output_norm(x) if the block has an output norm
    x      = output_scale * x if the block has an output scale

A mixer names the kind of cache that it needs. A model also has rules for embedding and head, and a
**weight map**, which assigns checkpoint tensors to the parameters of the model
(`tgi.architectures.parameter_names`). Backends make decisions that depend on this data only while
they build a model.
"""

from __future__ import annotations

from typing import Any, Literal

from tgi.architectures.mixers import (
    MLP,
    Activation,
    Attention,
    CacheKind,
    CrossAttention,
    GatedRecurrence,
    LatentAttention,
    LayerInput,
    LightningAttention,
    LinearAttention,
    Mixer,
    MixtureOfExperts,
    Norm,
    Router,
    ShortConvolution,
    StateSpace,
)
from tgi.architectures.positions import (
    DynamicScaling,
    LearnedPositions,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Part,
    PositionScale,
    ProportionalScaling,
    RelativeBias,
    Rope,
    RopeScaling,
    SinusoidalPositions,
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
    "GatedRecurrence",
    "GenericSpec",
    "Head",
    "LatentAttention",
    "Layer",
    "LayerInput",
    "LayerInputs",
    "LearnedPositions",
    "LightningAttention",
    "LinearAttention",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "Mixer",
    "MixtureOfExperts",
    "ModelSpec",
    "Norm",
    "PositionScale",
    "ProportionalScaling",
    "RelativeBias",
    "Rope",
    "RopeScaling",
    "Router",
    "ShortConvolution",
    "SinusoidalPositions",
    "Stack",
    "StateSpace",
    "WeightRule",
    "YarnScaling",
]

WeightLayout = Literal[
    "rows", "grouped", "by_head", "quarters", "alternating", "flat", "single_row"
]


class Branch(Part, frozen=True):
    """One mixer with its own norms."""

    mixer: Mixer
    norm: Norm | None = None
    post_norm: Norm | None = None


class Block(Part, frozen=True):
    """One addition to the residual. `norm` is shared by the branches, which may also have norms."""

    branches: tuple[Branch, ...]
    norm: Norm | None = None
    input_scale: float = 1.0
    residual_scale: float = 1.0
    residual_from_norm: bool = False
    output_norm: Norm | None = None
    output_scale: bool = False  # a learned factor of one value (gemma4)


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

    @property
    def mixers(self) -> tuple[Mixer, ...]:
        """The mixers of all layers in order."""
        return tuple(
            branch.mixer
            for layer in self.layers
            for block in layer.blocks
            for branch in block.branches
        )


class LayerInputs(Part, frozen=True):
    """Vectors of `size` values for each token and layer, which the mixers `LayerInput` read
    (gemma4): sum_scale * (norm(projection_scale * P x) + scale * table[token]). x is the vector of
    the token. P and the table have `size` rows or columns for each layer.
    """

    size: int
    vocab_size: int
    norm: Norm
    scale: float
    projection_scale: float
    sum_scale: float


class Embedding(Part, frozen=True):
    """Token vectors.

    If `size` is not the hidden size, there is a projection after the token vectors and another
    before the head (opt-350m).
    """

    scale: float = 1.0
    size: int | None = None
    positions: LearnedPositions | SinusoidalPositions | None = None
    norm: Norm | None = None
    layer_inputs: LayerInputs | None = None


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
      quarters     for each of four blocks a quarter of each parameter's rows (codegen)
      alternating  single rows of each parameter in turn (gpt_oss)
    A parameter of all experts may also be stored as
      flat         [E * rows, …], one expert after the other (dbrx)
    A vector may also be stored as
      single_row   [1, n], a matrix with one row (ernie4_5_moe)
    `transposed` means stored as [in, out]. `unit_rows` means that the loader divides each row by
    its L2 norm (baichuan 2's head). A rule is ignored in layers that do not have its parameters.
    `factors` has one number for each of `parameters`. The parameter is the stored piece times this
    number (falcon_h1). If two rules have the same parameters, the loader uses the rule whose tensor
    is in the checkpoint.
    """

    name: str
    parameters: tuple[str, ...]
    layout: WeightLayout = "rows"
    transposed: bool = False
    unit_rows: bool = False
    factors: tuple[float, ...] = ()  # empty means that every factor is 1


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

    @property
    def index_limit(self) -> int | None:
        """The maximum context length if attention has an index of keys, which is not implemented.
        The value is None if no attention has an index.
        """
        limits = (
            mixer.index_top_k for mixer in self.decoder.mixers if isinstance(mixer, LatentAttention)
        )
        return min((limit for limit in limits if limit is not None), default=None)


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
