"""Limits the number of regular expressions that apply to one string of a JSON schema."""

from __future__ import annotations

from typing import Any, final

from tgi.grammar.constraint import GrammarError
from tgi.grammar.json_text import Json
from tgi.grammar.limits import MAX_INTERSECTIONS
from tgi.grammar.schema.references import resolve

__all__ = ["check_intersections"]


def check_intersections(root: Json) -> None:
    """Raises `GrammarError` if llguidance may have to intersect more than `MAX_INTERSECTIONS`
    expressions of `pattern` and `format`, for example because of `allOf`.
    """
    number = _Intersections(root).most(root)
    if number > MAX_INTERSECTIONS:
        raise GrammarError(
            f"up to {number} values of `pattern` and `format` apply to one string because of"
            f" `allOf` and `$ref`, but the limit is {MAX_INTERSECTIONS}"
        )


@final
class _Intersections:
    """Computes an upper bound of the number of expressions for any string of a schema. The bound
    adds the bounds of all schemas that apply to the same value.
    """

    def __init__(self, root: Json) -> None:
        self._root = root
        self._bounds: dict[str, int] = {}  # by reference; 0 while the bound is being computed

    def most(self, schema: Json) -> int:
        """The bound of one schema and all schemas in it."""
        if not isinstance(schema, dict):
            return 0
        inner = [*schema.get("properties", {}).values()]
        inner += schema.get("patternProperties", {}).values()
        inner += schema.get("prefixItems", [])
        inner += [schema.get("items"), schema.get("additionalProperties")]
        own = ("pattern" in schema) + ("format" in schema)
        number = max(own, *map(self.most, inner))
        number += sum(map(self.most, schema.get("allOf", ())))
        for keyword in ("anyOf", "oneOf"):
            number += max(map(self.most, schema.get(keyword, ())), default=0)
        return number + self._most_of_reference(schema)

    def _most_of_reference(self, schema: dict[str, Any]) -> int:
        reference = schema.get("$ref")
        if reference is None:
            return 0
        if reference not in self._bounds:
            self._bounds[reference] = 0
            self._bounds[reference] = self.most(resolve(self._root, reference))
        return self._bounds[reference]
