"""Reads the containers of Kubernetes manifests that run TGI."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from tgi.cli.migration.data import DEVICE_RESOURCE
from tgi.cli.migration.entrypoint import launch_in_container
from tgi.cli.migration.images import image_facts
from tgi.cli.migration.launch import Container, Devices, Launch, Mount
from tgi.cli.migration.readers.interpolation import mapping, mappings, scalar, sequence
from tgi.cli.migration.words import Word, variable
from tgi.config import UsageError

__all__ = ["read_manifests"]

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_]\w*)\)")
_LOST = ("livenessProbe", "readinessProbe", "startupProbe", "securityContext", "lifecycle")


@final
@dataclass(frozen=True)
class _Manifests:
    """The config maps of the documents by name, and their containers."""

    documents: Sequence[Any]

    @property
    def config_maps(self) -> dict[str, Mapping[str, Any]]:
        """The data of each config map."""
        return {
            scalar(mapping(document.get("metadata")).get("name")): mapping(document.get("data"))
            for document in mappings(self.documents)
            if document.get("kind") == "ConfigMap"
        }


def read_manifests(documents: Sequence[Any]) -> dict[str, Launch | UsageError]:
    """Return the containers that run TGI by name, each with its `Launch` or with the reason
    for which it cannot be read.
    """
    manifests = _Manifests(documents)
    found: dict[str, Launch | UsageError] = {}
    for workload, pod, container in _containers(documents):
        name = f"{workload}/{container.get('name', 'container')}"
        try:
            found[name] = _read_container(pod, container, manifests)
        except UsageError as error:
            if image_facts(Word.of(scalar(container.get("image")))).is_known:
                found[name] = error
    return found


def _containers(documents: Sequence[Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return the name of the workload, the pod and the container of each container."""
    for document in mappings(documents):
        name = mapping(document.get("metadata")).get("name") or document.get("kind", "")
        for pod in _pods(document, document.get("spec")):
            for container in [*mappings(pod.get("containers")), *mappings(pod.get("model"))]:
                if "image" in container:
                    yield scalar(name), pod, container


def _pods(document: dict[str, Any], node: object) -> Iterator[dict[str, Any]]:
    """Return the mappings that describe a pod. The number of replicas is copied into the pod."""
    if isinstance(node, list):
        for item in node:
            yield from _pods(document, item)
    elif isinstance(node, dict):
        if isinstance(node.get("containers"), list) or "image" in mapping(node.get("model")):
            yield {**mapping(node), "replicas": mapping(document.get("spec")).get("replicas")}
            return
        for item in node.values():
            yield from _pods(document, item)


def _read_container(
    pod: Mapping[str, Any], container: Mapping[str, Any], manifests: _Manifests
) -> Launch:
    notes: list[str] = []
    variables = _environment(container, manifests, notes)
    command = container.get("command")
    limits = mapping(mapping(container.get("resources")).get("limits"))
    count = scalar(limits.get(DEVICE_RESOURCE))
    record = Container(
        Word.of(scalar(container.get("image"))),
        mounts=tuple(_mounts(pod, container)),
        devices=Devices(count=int(count), is_scheduled=True) if count.isdecimal() else None,
        entrypoint=None if command is None else tuple(_words(command, variables)),
        lost=tuple(_lost(pod, container)),
        has_own_address=True,
    )
    return launch_in_container(record, _words(container.get("args"), variables), variables, notes)


def _words(texts: object, variables: Mapping[str, Word]) -> list[Word]:
    return [_referenced(scalar(text), variables) for text in sequence(texts)]


def _referenced(text: str, variables: Mapping[str, Word]) -> Word:
    """Replace `$(NAME)` by the variable of the container. `$$` is a dollar sign."""
    word, at = Word(), 0
    for match in _REFERENCE.finditer(text):
        value = Word.of("$") if match[0] == "$$" else variables.get(match[1])
        if value is not None:
            word = word + Word.of(text[at : match.start()]) + value
            at = match.end()
    return word + Word.of(text[at:])


def _environment(
    container: Mapping[str, Any], manifests: _Manifests, notes: list[str]
) -> dict[str, Word]:
    variables: dict[str, Word] = {}
    for source in mappings(container.get("envFrom")):
        prefix = scalar(source.get("prefix"))
        name = scalar(mapping(source.get("configMapRef")).get("name"))
        if name in manifests.config_maps:
            for key, value in manifests.config_maps[name].items():
                variables[prefix + str(key)] = Word.of(scalar(value))
        else:
            secret = mapping(source.get("secretRef")).get("name")
            kind = "secret" if secret else "config map"
            notes.append(
                f"The variables of the {kind} `{secret or name}` were not read. Add the required"
                " variables."
            )
    for item in mappings(container.get("env")):
        name = scalar(item.get("name"))
        origin = item.get("valueFrom")
        if origin is None:
            variables[name] = _referenced(scalar(item.get("value")), variables)
        else:
            variables[name] = _value_from(name, mapping(origin), manifests, notes)
    return variables


def _value_from(
    name: str, origin: Mapping[str, Any], manifests: _Manifests, notes: list[str]
) -> Word:
    """Return the value of a variable that is defined elsewhere. Without a value in the files, the
    variable of the shell is used.
    """
    for field, kind in (("secretKeyRef", "secret"), ("configMapKeyRef", "configmap")):
        reference = mapping(origin.get(field))
        if not reference:
            continue
        owner, key = scalar(reference.get("name")), scalar(reference.get("key"))
        if kind == "configmap" and key in manifests.config_maps.get(owner, {}):
            return Word.of(scalar(manifests.config_maps[owner][key]))
        path = key.replace(".", "\\.")
        decode = " | base64 -d" if kind == "secret" else ""
        notes.append(
            f"`{name}` is the key `{key}` of the {kind} `{owner}`. Set it first: `export {name}="
            f"$(kubectl get {kind} {owner} -o jsonpath='{{.data.{path}}}'{decode})`."
        )
        return variable(name)
    notes.append(f"`{name}` is set by Kubernetes. Set the variable before you run the command.")
    return variable(name)


def _mounts(pod: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[Mount]:
    volumes = {scalar(volume.get("name")): volume for volume in mappings(pod.get("volumes"))}
    for item in mappings(container.get("volumeMounts")):
        target = Word.of(scalar(item.get("mountPath")).rstrip("/") or "/")
        name = scalar(item.get("name"))
        volume = volumes.get(name, {})
        path = scalar(mapping(volume.get("hostPath")).get("path"))
        if path:
            within = scalar(item.get("subPath"))
            yield Mount(target, Word.of(f"{path.rstrip('/')}/{within}" if within else path))
        else:
            claim = mapping(volume.get("persistentVolumeClaim")).get("claimName")
            yield Mount(target, volume=scalar(claim or name))


def _lost(pod: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    yield from (name for name in _LOST if container.get(name))
    resources = mapping(container.get("resources"))
    limits = {*mapping(resources.get("limits")), *mapping(resources.get("requests"))}
    yield from (f"resources.{name}" for name in ("cpu", "memory") if name in limits)
    if pod.get("replicas") is not None:
        yield "replicas"
    yield from (name for name in ("restartPolicy", "nodeSelector") if pod.get(name))
