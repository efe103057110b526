"""Weight rules from tables of names: a module's weight and bias go by the module's name."""

from __future__ import annotations

from tgi.architectures.spec import WeightLayout, WeightRule

__all__ = ["Modules", "layer_rules", "module_rules"]

Modules = dict[str | tuple[str, ...], str]
"""Role of a module, or the roles fused into it → its name in the checkpoint."""


def module_rules(
    modules: Modules, *, layout: WeightLayout = "rows", transposed: bool = False
) -> tuple[WeightRule, ...]:
    """The rules for weights and biases; a bias that the model does not have is passed over.
    `transposed` is for weights only.
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
    """The same for the modules of every decoder layer; `layer` (for example `layers.{layer}`)
    stands before their names.

    A layer passes over the modules it does not have, so one table serves layers that differ.
    """
    in_layers: Modules = {}
    for parameters, name in modules.items():
        whole = tuple(
            f"decoder.layers.{{layer}}.{parameter}"
            for parameter in ((parameters,) if isinstance(parameters, str) else parameters)
        )
        in_layers[whole] = f"{layer}.{name}"
    return module_rules(in_layers, layout=layout, transposed=transposed)
