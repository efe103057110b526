"""Reads YAML files: Compose files, Kubernetes manifests, and tasks of SkyPilot and dstack."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]  # the type stubs are in a separate package

from tgi.cli.migration.container_values import split_variable
from tgi.cli.migration.entrypoint import launch_in_container
from tgi.cli.migration.launch import Container, Launch
from tgi.cli.migration.readers.compose import read_services
from tgi.cli.migration.readers.interpolation import mapping, mappings, scalar, sequence
from tgi.cli.migration.readers.kubernetes import read_manifests
from tgi.cli.migration.script import read_script
from tgi.cli.migration.words import Word, variable
from tgi.config import UsageError

__all__ = ["read_yaml"]

_TEMPLATE_REMEDY = (
    "If the file belongs to a Helm chart, write the manifests into a file with `helm template"
    " CHART > manifests.yaml` and give this file."
)


def read_yaml(text: str) -> dict[str, Launch | UsageError]:
    """Return the services or containers in a YAML file that start TGI, by name. Raises
    `UsageError` if there is none.
    """
    try:
        documents = [each for each in yaml.safe_load_all(text) if each is not None]
    except yaml.YAMLError as error:
        raise UsageError(
            f"error: the file is not valid YAML: {' '.join(str(error).split())}.",
            _TEMPLATE_REMEDY if "{{" in text else "Correct the file.",
        ) from error
    tables = mappings(documents)
    if any("kind" in each and "apiVersion" in each for each in tables):
        found = read_manifests(_with_items(tables))
        kind, remedy = "no container in the Kubernetes manifest", "Give the manifest"
    elif len(tables) == 1 and isinstance(tables[0].get("services"), dict):
        found = read_services(mapping(tables[0]["services"]))
        kind, remedy = "no service in the Compose file", "Give the Compose file"
    elif len(tables) == 1 and "commands" in tables[0]:
        return _read_dstack(tables[0])
    elif len(tables) == 1 and isinstance(tables[0].get("run"), str):
        return _read_skypilot(tables[0])
    else:
        raise UsageError(
            "error: the file is neither a Compose file nor a Kubernetes manifest.",
            f"{_TEMPLATE_REMEDY} Otherwise give its command as a `docker run` command.",
        )
    if not found:
        raise UsageError(
            f"error: {kind} has an image of TGI or runs its launcher.",
            f"{remedy} that starts TGI.",
        )
    return found


def _with_items(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the documents, with the members of each Kubernetes list as separate documents."""
    found: list[dict[str, Any]] = []
    for document in documents:
        items = document.get("items")
        found += items if document.get("kind") == "List" and isinstance(items, list) else [document]
    return found


def _read_skypilot(task: Mapping[str, Any]) -> dict[str, Launch | UsageError]:
    """Return the commands in the `run` script of a SkyPilot task that start TGI."""
    exports = [
        f"export {name}={shlex.quote(scalar(value))}"
        for name, value in mapping(task.get("envs")).items()
        if value is not None
    ]
    starts = read_script("\n".join([*exports, task["run"]]))
    return {f"command {at}" if len(starts) > 1 else "": each for at, each in enumerate(starts, 1)}


def _read_dstack(task: Mapping[str, Any]) -> dict[str, Launch | UsageError]:
    """Return the command in the `commands` of a dstack configuration that starts TGI."""
    variables: dict[str, Word] = {}
    items = task.get("env")
    named = [f"{name}={scalar(value)}" for name, value in mapping(items).items()]
    for item in named or sequence(items):
        name, value = split_variable(Word.of(scalar(item)))
        variables[name] = variable(name) if value is None else value
    script = "\n".join(map(scalar, sequence(task["commands"])))
    if "image" not in task:
        return {"": read_script(script, variables)[0]}
    container = Container(
        Word.of(scalar(task["image"])),
        entrypoint=(Word.of("sh"), Word.of("-c")),
        has_own_address=True,
    )
    return {"": launch_in_container(container, [Word.of(script)], variables)}
