"""Reads the environment of a SageMaker model from a Python program, without running it."""

from __future__ import annotations

import ast

from tgi.cli.migration.data import SAGEMAKER_PORT, SAGEMAKER_VARIABLES
from tgi.cli.migration.launch import Launch
from tgi.cli.migration.words import Word
from tgi.config import UsageError

__all__ = ["read_python"]


def read_python(text: str) -> dict[str, Launch | UsageError]:
    """Return the `Launch` whose environment is a dictionary with `HF_MODEL_ID`. Raises `UsageError`
    if there is no such dictionary.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise UsageError(
            f"error: the Python program cannot be parsed: {error.msg} in line {error.lineno}.",
            "Correct the program.",
        ) from error
    dictionaries = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    for dictionary in dictionaries:
        keys = [key.value for key in dictionary.keys if isinstance(key, ast.Constant)]
        if "HF_MODEL_ID" in keys:
            return {"": _start(dictionary)}
    raise UsageError(
        "error: the Python program contains no dictionary with the variables of a SageMaker model.",
        f"Give the `docker run` or launcher command, or run `tgi sagemaker` with the variables"
        f" {', '.join(SAGEMAKER_VARIABLES)}.",
    )


def _start(dictionary: ast.Dict) -> Launch:
    variables: dict[str, Word] = {}
    unread = []
    for key, value in zip(dictionary.keys, dictionary.values, strict=True):
        if not isinstance(key, ast.Constant):
            continue
        text = _text(value)
        if text is None:
            unread.append(str(key.value))
        else:
            variables[str(key.value)] = Word.of(text)
    variables.setdefault("PORT", Word.of(str(SAGEMAKER_PORT)))
    notes = [
        "SageMaker runs the model in a container, which needs an image of tgi with the entry point"
        " `tgi sagemaker`."
    ]
    if unread:
        names = ", ".join(f"`{name}`" for name in unread)
        notes.append(f"The values of {names} are computed by the program. Add them.")
    return Launch((), variables, notes=tuple(notes), is_sagemaker=True)


def _text(node: ast.expr) -> str | None:
    """Return the text of a constant, also inside of `json.dumps(…)` and `str(…)`, or None."""
    if isinstance(node, ast.Call) and len(node.args) == 1:
        inner = node.args[0]
        return str(inner.value) if isinstance(inner, ast.Constant) else None
    return str(node.value) if isinstance(node, ast.Constant) else None
