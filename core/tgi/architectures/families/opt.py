"""opt (and galactica): learned positions that begin at row 2.

opt-350m has projections for its smaller embedding, and norms after the residual sums.
"""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.spec import (
    MLP,
    Attention,
    Block,
    Branch,
    Embedding,
    Head,
    Layer,
    LearnedPositions,
    ModelSpec,
    Norm,
    Stack,
    WeightRule,
)
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_LAYER = "layers.{layer}"
_FRAME: Modules = {
    "embedding": "embed_tokens",
    "embedding.positions": "embed_positions",
    "embedding.projection": "project_in",
    "decoder.final_norm": "final_layer_norm",
    "head.projection": "project_out",
}
_MODULES: Modules = {
    "block0.norm": "self_attn_layer_norm",
    "block0.output_norm": "self_attn_layer_norm",
    **{f"attention.{part}": f"self_attn.{part}_proj" for part in "qkv"},
    "attention.o": "self_attn.out_proj",
    "block1.norm": "final_layer_norm",
    "block1.output_norm": "final_layer_norm",
    "mlp.up": "fc1",
    "mlp.down": "fc2",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of OPTForCausalLM from its config."""
    reader = ConfigReader(config)
    hidden, bias = reader.integer("hidden_size"), reader.boolean("enable_bias", default=True)
    affine = reader.boolean("layer_norm_elementwise_affine", default=True)
    norm = Norm(kind="layer", eps=1e-5, weight=affine, bias=affine)
    norm_first = reader.boolean("do_layer_norm_before", default=True)
    mlp = MLP(
        intermediate_size=reader.integer("ffn_dim"),
        activation=reader.activation("activation_function", default="relu"),
        gated=False,
        bias=bias,
    )
    before, behind = (norm, None) if norm_first else (None, norm)
    blocks = tuple(
        Block(branches=(Branch(mixer=mixer),), norm=before, output_norm=behind)
        for mixer in (_attention(reader, hidden, bias), mlp)
    )
    layers = (Layer(blocks=blocks),) * reader.integer("num_hidden_layers")
    has_final_norm = norm_first and not reader.boolean("_remove_final_layer_norm", default=False)
    max_positions = reader.integer("max_position_embeddings")
    size = reader.integer("word_embed_proj_dim", default=hidden)
    return ModelSpec(
        model_type="opt",
        hidden_size=hidden,
        vocab_size=reader.integer("vocab_size"),
        embedding=Embedding(
            size=None if size == hidden else size,
            positions=LearnedPositions(num_positions=max_positions, offset=2),
        ),
        stacks=(Stack(kind="decoder", layers=layers, final_norm=norm if has_final_norm else None),),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=True)),
        weights=_weight_rules(),
        max_positions=max_positions,
        prefixes=("model.decoder.", "decoder.", ""),
    )


def _attention(reader: ConfigReader, hidden: int, bias: bool) -> Attention:
    num_heads = reader.integer("num_attention_heads")
    head_dim = reader.divided("hidden_size", hidden, "num_attention_heads", num_heads)
    return Attention(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        qkv_bias=bias,
        output_bias=bias,
    )


def _weight_rules() -> tuple[WeightRule, ...]:
    # The head is outside the decoder, so its name has no prefix.
    return (
        *module_rules(_FRAME),
        *layer_rules(_LAYER, _MODULES),
        WeightRule(name="lm_head.weight", parameters=("head.weight",)),
    )
