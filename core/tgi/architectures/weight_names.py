"""Builds the rules that map checkpoint tensors to parameters, from tables of module names."""

from __future__ import annotations

from tgi.architectures.spec import WeightLayout, WeightRule

__all__ = ["Modules", "layer_rules", "module_rules", "stacked_expert_rules"]

Modules = dict[str | tuple[str, ...], str]
"""Maps a module's parameter name without `.weight`, or the names that are fused into one tensor, to
the module's name in the checkpoint.
"""


def module_rules(
    modules: Modules, *, layout: WeightLayout = "rows", transposed: bool = False
) -> tuple[WeightRule, ...]:
    """Build the rules for weights and biases.

    A rule for a bias is ignored if the model has no such bias. `transposed` applies to weights
    only.
    """
    return tuple(
        WeightRule(
            name=f"{name}.{kind}",
            parameters=tuple(
                f"{parameter}.{kind}"
                for parameter in ((parameters,) if isinstance(parameters, str) else parameters)
            ),
            layout=layout,
            transposed=transposed and kind == "weight",
        )
        for parameters, name in modules.items()
        for kind in ("weight", "bias")
    )


def layer_rules(
    layer: str, modules: Modules, *, layout: WeightLayout = "rows", transposed: bool = False
) -> tuple[WeightRule, ...]:
    """Build the rules for the modules of every decoder layer.

    `layer` is the prefix of the module names, for example `layers.{layer}`. A rule is ignored in
    layers without its module, so layers that differ can use one table.
    """
    in_layers: Modules = {}
    for parameters, name in modules.items():
        whole = tuple(
            f"decoder.layers.{{layer}}.{parameter}"
            for parameter in ((parameters,) if isinstance(parameters, str) else parameters)
        )
        in_layers[whole] = f"{layer}.{name}"
    return module_rules(in_layers, layout=layout, transposed=transposed)


def stacked_expert_rules(module: str, *, transposed: bool = False) -> tuple[WeightRule, ...]:
    """Build the rules for experts that are stored in two tensors per layer, [E, 2 * rows, …] for
    gate and up and [E, …] for down. `module` is the name of the module of the experts.
    """
    experts = "decoder.layers.{layer}.moe.experts"
    return (
        WeightRule(
            name=f"{module}.gate_up_proj",
            parameters=(f"{experts}.gate.weight", f"{experts}.up.weight"),
            transposed=transposed,
        ),
        WeightRule(
            name=f"{module}.down_proj",
            parameters=(f"{experts}.down.weight",),
            transposed=transposed,
        ),
    )
