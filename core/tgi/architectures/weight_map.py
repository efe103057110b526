"""Maps checkpoint tensors to parameters and splits fused tensors.

A loader calls `placements` once. It then calls `split` on each tensor that it reads, and copies the
pieces to their parameters. `split` only uses operations that numpy arrays and torch tensors have in
common (reshape, slicing, swapaxes), so every loader uses the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar, cast

import msgspec

from tgi.architectures.left_over import foreign_checkpoint, is_harmless, plain_name
from tgi.architectures.parameter_names import mixer_of, shard_axis, tensor_shapes
from tgi.architectures.spec import (
    Attention,
    LightningAttention,
    LinearAttention,
    ModelSpec,
    WeightRule,
)
from tgi.errors import ModelError

__all__ = [
    "Placement",
    "check_shape",
    "left_over_names",
    "oriented",
    "placements",
    "sample_placements",
    "second_heads",
    "shard_axis",
    "split",
    "stored_shape",
    "tensor_shapes",
]

TensorT = TypeVar("TensorT")
"""A numpy array or a torch tensor."""

Shape = tuple[int, ...]


class _Array(Protocol):
    """The operations of numpy arrays and torch tensors that this module uses."""

    @property
    def shape(self) -> Shape: ...

    def reshape(self, shape: Shape) -> _Array: ...

    def swapaxes(self, first: int, second: int) -> _Array: ...

    def __getitem__(self, index: slice | tuple[slice, ...]) -> _Array: ...

    def __mul__(self, factor: float) -> _Array: ...


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint tensor and its parameters.

    `shapes` are the shapes of the pieces. If `expert` is set, a piece is the slice of that expert
    (or head) in a parameter that is stacked to [E, …].
    """

    name: str
    rule: WeightRule
    parameters: tuple[str, ...]
    shapes: tuple[Shape, ...]
    expert: int | None = None

    @property
    def is_stacked(self) -> bool:
        """Whether the tensor contains all experts, so that its rows are on axis 1."""
        return self.expert is None and ".experts." in self.parameters[0]


def placements(
    spec: ModelSpec, names: Collection[str], is_zero: Callable[[str], bool] | None = None
) -> list[Placement]:
    """Resolve the rules of the spec with the tensor names of a checkpoint.

    `is_zero` reports whether all values of a tensor are zero. A left-over bias of zeros is skipped,
    as are the tensors that `ignored` or `left_over` lists. Raises `ModelError` if a tensor is
    missing, if the checkpoint contains another unknown tensor, or if a parameter is filled by no
    rule or by two rules.
    """
    shapes = tensor_shapes(spec)
    stored = {plain_name(name): name for name in names}
    available = stored.keys()
    resolved: list[Placement] = []
    absent: list[Placement] = []
    filled: dict[tuple[str, int | None], str] = {}
    for rule in spec.weights:
        for placement in _candidates(rule, spec, shapes):
            name = _present_name(placement.name, spec, available)
            if name is None:
                absent.append(placement)
                continue
            for parameter in placement.parameters:
                if (parameter, placement.expert) in filled:
                    raise ModelError(
                        f"The architecture {spec.model_type} fills {parameter} twice, the second"
                        f" time from `{name}`."
                    )
                filled[parameter, placement.expert] = name
            resolved.append(msgspec.structs.replace(placement, name=stored[name]))
    parameters = {parameter for parameter, _ in filled}
    for placement in absent:
        if not _is_filled(placement, filled, parameters):
            raise _missing(placement, available)
    _check_filled(spec, shapes, parameters)
    left_over = left_over_names(spec, names, resolved)
    _check_left_over(spec, [name for name in left_over if not _is_zero_bias(name, is_zero)])
    return resolved


def left_over_names(
    spec: ModelSpec, names: Iterable[str], resolved: Iterable[Placement]
) -> list[str]:
    """Return the names that neither `resolved` nor `ignored` contains. A stored head of a model
    whose head is the embedding is not left over: see `second_heads`.
    """
    used = {placement.name for placement in resolved}
    heads = second_heads(spec, names)
    return sorted(
        name
        for name in names
        if name not in used and name not in heads and not _is_ignored(spec, plain_name(name))
    )


def second_heads(spec: ModelSpec, names: Iterable[str]) -> set[str]:
    """Return the names of stored heads that a model does not use, because its head is the
    embedding.
    """
    heads = {
        prefix + rule.name
        for rule in spec.weights
        if spec.head.tied and rule.parameters == ("head.weight",)
        for prefix in spec.prefixes
    }
    return {name for name in names if plain_name(name) in heads}


def sample_placements(spec: ModelSpec, names: Collection[str]) -> Iterator[Placement]:
    """Return, for each rule, the first placement whose tensor is among `names`. The result contains
    one tensor of each kind.
    """
    shapes = tensor_shapes(spec)
    stored = {plain_name(name): name for name in names}
    for rule in spec.weights:
        placement = next(_candidates(rule, spec, shapes), None)
        name = None if placement is None else _present_name(placement.name, spec, stored)
        if placement is not None and name is not None:
            yield msgspec.structs.replace(placement, name=stored[name])


def _candidates(rule: WeightRule, spec: ModelSpec, shapes: dict[str, Shape]) -> Iterator[Placement]:
    """Apply a rule to each layer and expert that has its parameters. The tensor names of the result
    have no prefix.
    """
    layered = any("{layer}" in parameter for parameter in rule.parameters)
    kind = rule.parameters[0].split(".")[0]
    layers = (
        max((len(stack.layers) for stack in spec.stacks if stack.kind == kind), default=0)
        if layered
        else 1
    )
    for layer in range(layers):
        parameters = tuple(
            parameter.replace("{layer}", str(layer)) for parameter in rule.parameters
        )
        owned = [parameter in shapes for parameter in parameters]
        if not any(owned):
            continue
        if not all(owned):
            raise ModelError(
                f"The architecture {spec.model_type} maps `{rule.name}` to parameters of which"
                f" layer {layer} has only some."
            )
        name = rule.name.replace("{layer}", str(layer))
        index = next((index for index in ("{expert}", "{head}") if index in name), None)
        if index is None:
            yield Placement(
                name=name,
                rule=rule,
                parameters=parameters,
                shapes=tuple(shapes[parameter] for parameter in parameters),
            )
            continue
        pieces = tuple(shapes[parameter][1:] for parameter in parameters)
        for number in range(shapes[parameters[0]][0]):
            yield Placement(
                name=name.replace(index, str(number)),
                rule=rule,
                parameters=parameters,
                shapes=pieces,
                expert=number,
            )


def _present_name(name: str, spec: ModelSpec, available: Collection[str]) -> str | None:
    return next((prefix + name for prefix in spec.prefixes if prefix + name in available), None)


def _is_filled(
    placement: Placement, filled: Collection[tuple[str, int | None]], parameters: set[str]
) -> bool:
    """Return whether other tensors fill the parameters of an absent tensor."""
    if placement.expert is None:
        return parameters.issuperset(placement.parameters)
    return all(
        (parameter, placement.expert) in filled or (parameter, None) in filled
        for parameter in placement.parameters
    )


def _check_filled(spec: ModelSpec, shapes: dict[str, Shape], filled: set[str]) -> None:
    empty = [parameter for parameter in shapes if parameter not in filled]
    if empty:
        raise ModelError(
            f"The architecture {spec.model_type} has no checkpoint tensor for {_some(empty)}."
        )


def _missing(placement: Placement, available: Collection[str]) -> ModelError:
    """Return the error for a checkpoint without the tensor of `placement`. The error names tensors
    of the same kind that are there.
    """
    error = foreign_checkpoint(available)
    if error is not None and "head" in placement.parameters[0]:
        return error
    words = placement.name.split(".")
    same_kind = (
        [name for name in available if name.split(".")[-count:] == words[-count:]]
        for count in (2, 1, 0)
    )
    names = sorted(next((names for names in same_kind if names), []))
    return ModelError(
        f"The checkpoint has no tensor `{placement.name}` (for"
        f" {', '.join(placement.parameters)}). It has {len(available)} tensors, for example"
        f" {_some(names) or 'none'}.",
        "Check that all weight files are present and that they belong to this config.json.",
    )


def _is_ignored(spec: ModelSpec, name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in spec.ignored)


def _is_zero_bias(name: str, is_zero: Callable[[str], bool] | None) -> bool:
    return is_zero is not None and name.endswith(".bias") and is_zero(name)


def _check_left_over(spec: ModelSpec, left_over: Iterable[str]) -> None:
    unknown = [plain for name in left_over if not is_harmless(plain := plain_name(name))]
    if not unknown:
        return
    raise foreign_checkpoint(unknown) or ModelError(
        f"The checkpoint contains tensors that a {spec.model_type} model with this config.json"
        f" does not have: {_some(unknown)}.",
        "Check `model_type` and the bias and tie options in config.json.",
    )


def _some(names: list[str], limit: int = 3) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def stored_shape(placement: Placement) -> Shape:
    """Return the shape that the checkpoint's tensor must have."""
    axis = int(placement.is_stacked)
    first = placement.shapes[0]
    rows = sum(shape[axis] for shape in placement.shapes)
    shape = (*first[:axis], rows, *first[axis + 1 :])
    if placement.rule.transposed:
        shape = (*shape[:-2], shape[-1], shape[-2])
    if placement.rule.layout == "single_row":
        shape = (1, *shape)
    return (shape[0] * shape[1], *shape[2:]) if placement.rule.layout == "flat" else shape


def check_shape(shape: Shape, placement: Placement) -> None:
    """Raise `ModelError` with the tensor's name if the checkpoint's tensor has another shape than
    the model requires.
    """
    expected = stored_shape(placement)
    if shape != expected:
        raise ModelError(
            f"The tensor `{placement.name}` has shape {list(shape)}, but config.json requires"
            f" {list(expected)}.",
            "The weight files and config.json do not belong together.",
        )


def oriented(placement: Placement) -> Placement:
    """Return the placement of a tensor that is already oriented as its parameters are, and to which
    no factor is applied.
    """
    rule = msgspec.structs.replace(placement.rule, transposed=False, factors=())
    return msgspec.structs.replace(placement, rule=rule)


def split(tensor: TensorT, placement: Placement, spec: ModelSpec) -> dict[str, TensorT]:
    """Split a checkpoint tensor into the pieces of its parameters, oriented as in `tensor_shapes`.

    The pieces are views if the library can create views and the rule has no factors. Raises
    `ModelError` with the tensor's name if its shape is wrong.
    """
    whole = cast(_Array, tensor)
    check_shape(tuple(whole.shape), placement)
    expected = stored_shape(placement)
    parameters, shapes = placement.parameters, placement.shapes
    if placement.rule.layout == "flat":
        whole = whole.reshape((shapes[0][0], -1, *expected[1:]))
    if placement.rule.transposed:
        whole = whole.swapaxes(-1, -2)
    if placement.rule.layout == "single_row":
        whole = whole.reshape(shapes[0])
    if len(parameters) == 1:
        return _scaled({parameters[0]: cast(TensorT, whole)}, placement.rule)
    match placement.rule.layout:
        case "alternating":
            pieces = [
                _rows(whole, slice(index, None, len(parameters)), placement)
                for index in range(len(parameters))
            ]
        case "grouped":
            pieces = _split_grouped(whole, placement, _num_groups(parameters[0], spec))
        case "by_head":
            mixer = mixer_of(parameters[0], spec)
            assert isinstance(mixer, Attention | LightningAttention), parameters
            pieces = _split_grouped(whole, placement, mixer.num_heads)
        case "quarters":
            pieces = _split_grouped(whole, placement, 4)
        case "rows" | "flat" | "single_row":
            axis = int(placement.is_stacked)
            ends = [
                sum(shape[axis] for shape in shapes[: index + 1]) for index in range(len(shapes))
            ]
            pieces = [
                _rows(whole, slice(end - shape[axis], end), placement)
                for end, shape in zip(ends, shapes, strict=True)
            ]
    return _scaled(dict(zip(parameters, cast(list[TensorT], pieces), strict=True)), placement.rule)


def _scaled(pieces: dict[str, TensorT], rule: WeightRule) -> dict[str, TensorT]:
    """Multiply each piece by its factor, if the rule has factors."""
    if not rule.factors:
        return pieces
    return {
        parameter: cast(TensorT, cast(_Array, piece) * factor)
        for (parameter, piece), factor in zip(pieces.items(), rule.factors, strict=True)
    }


def _rows(whole: _Array, rows: slice, placement: Placement) -> _Array:
    return whole[slice(None), rows] if placement.is_stacked else whole[rows]


def _split_grouped(whole: _Array, placement: Placement, num_groups: int) -> list[_Array]:
    """Split a tensor in which each group contains an equal share of every parameter's rows."""
    trailing = placement.shapes[0][1:]
    by_group = whole.reshape((num_groups, -1, *trailing))
    pieces, start = [], 0
    for shape in placement.shapes:
        share = shape[0] // num_groups
        pieces.append(by_group[:, start : start + share].reshape(shape))
        start += share
    return pieces


def _num_groups(parameter: str, spec: ModelSpec) -> int:
    match mixer_of(parameter, spec):
        case Attention(num_kv_heads=groups) | LinearAttention(num_key_heads=groups):
            return groups
        case other:
            raise ModelError(
                f"The layout `grouped` needs attention heads, and {parameter} belongs to {other!r}."
            )
