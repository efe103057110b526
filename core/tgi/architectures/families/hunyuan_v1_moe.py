"""hunyuan_v1_moe (Hunyuan-A13B): hunyuan_v1_dense with a mixture of experts and a shared MLP."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.hunyuan_v1_dense import MODULES, hunyuan_attention
from tgi.architectures.families.llama import FRAME, LAYER, decoder_spec, mlp_of, rms_norm
from tgi.architectures.layers import sequential
from tgi.architectures.spec import MixtureOfExperts, ModelSpec, Router
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_EXPERTS: Modules = {
    "moe.router": "mlp.gate.wg",
    **{
        f"moe.experts.{part}": f"mlp.experts.{{expert}}.{part}_proj"
        for part in ("gate", "up", "down")
    },
    **{f"moe.shared.{part}": f"mlp.shared_mlp.{part}_proj" for part in ("gate", "up", "down")},
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of HunYuanMoEV1ForCausalLM from its config."""
    reader = ConfigReader(config)
    norm, num_layers = rms_norm(reader, default_eps=1e-5), reader.integer("num_hidden_layers")
    attention, mlp = hunyuan_attention(config, norm), mlp_of(reader)
    layers = tuple(
        sequential(
            attention,
            MixtureOfExperts(
                num_experts=num_experts,
                experts_per_token=experts_per_token,
                expert=mlp,
                router=Router(),
                shared=mlp,
            ),
            norm=norm,
        )
        for num_experts, experts_per_token in zip(
            _per_layer(config, "num_experts", num_layers),
            _per_layer(config, "moe_topk", num_layers),
            strict=True,
        )
    )
    weights = module_rules(FRAME) + layer_rules(LAYER, MODULES | _EXPERTS)
    return decoder_spec(reader, "hunyuan_v1_moe", layers, final_norm=norm, weights=weights)


def _per_layer(config: dict[str, Any], name: str, num_layers: int) -> tuple[int, ...]:
    """Read a positive integer, or a list with one positive integer per layer."""
    reader = ConfigReader(config)
    if not isinstance(config.get(name), list):
        return (reader.integer(name, default=1),) * num_layers
    numbers = reader.integers(name)
    if len(numbers) != num_layers or min(numbers) < 1:
        raise reader.error(name, f"must contain {num_layers} whole numbers >= 1")
    return numbers
