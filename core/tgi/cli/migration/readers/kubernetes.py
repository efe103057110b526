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
from tgi.cli.migration.readers.interpolation import scalar
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
            document["metadata"]["name"]: document.get("data") or {}
            for document in self.documents
            if isinstance(document, dict) and document.get("kind") == "ConfigMap"
        }


def read_manifests(documents: Sequence[Any]) -> dict[str, Launch | UsageError]:
    """Return the containers that run TGI by name, each with its start or with the reason for which
    it cannot be read.
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
    for document in documents:
        if not isinstance(document, dict):
            continue
        name = (document.get("metadata") or {}).get("name") or document.get("kind", "")
        for pod in _pods(document, document.get("spec") or {}):
            single = pod.get("model")
            listed = list(pod.get("containers") or ())
            if not listed and isinstance(single, dict) and "image" in single:
                listed = [single]
            for container in listed:
                if isinstance(container, dict):
                    yield str(name), pod, container


def _pods(document: dict[str, Any], node: object) -> Iterator[dict[str, Any]]:
    """Return the mappings that describe a pod. The number of replicas is copied into the pod."""
    if isinstance(node, list):
        for item in node:
            yield from _pods(document, item)
    elif isinstance(node, dict):
        if isinstance(node.get("containers"), list) or "image" in (node.get("model") or ()):
            yield {**node, "replicas": (document.get("spec") or {}).get("replicas")}
            return
        for item in node.values():
            yield from _pods(document, item)


def _read_container(
    pod: Mapping[str, Any], container: Mapping[str, Any], manifests: _Manifests
) -> Launch:
    notes: list[str] = []
    variables = _environment(container, manifests, notes)
    command = container.get("command")
    limits = (container.get("resources") or {}).get("limits") or {}
    count = limits.get(DEVICE_RESOURCE)
    record = Container(
        Word.of(scalar(container.get("image"))),
        mounts=tuple(_mounts(pod, container)),
        devices=None if count is None else Devices(count=int(count), is_scheduled=True),
        entrypoint=None if command is None else tuple(_words(command, variables)),
        lost=tuple(_lost(pod, container)),
        has_own_address=True,
    )
    return launch_in_container(record, _words(container.get("args"), variables), variables, notes)


def _words(texts: object, variables: Mapping[str, Word]) -> list[Word]:
    items = texts if isinstance(texts, list) else [] if texts is None else [texts]
    return [_referenced(scalar(item), variables) for item in items]


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
    for source in container.get("envFrom") or ():
        prefix = scalar(source.get("prefix"))
        name = (source.get("configMapRef") or {}).get("name")
        if name in manifests.config_maps:
            for key, value in manifests.config_maps[name].items():
                variables[prefix + str(key)] = Word.of(scalar(value))
        else:
            secret = (source.get("secretRef") or {}).get("name")
            kind = "secret" if secret else "config map"
            notes.append(
                f"The variables of the {kind} `{secret or name}` were not read. Add the required"
                " variables."
            )
    for item in container.get("env") or ():
        name = scalar(item.get("name"))
        origin = item.get("valueFrom")
        if origin is None:
            variables[name] = _referenced(scalar(item.get("value")), variables)
        else:
            variables[name] = _value_from(name, origin, manifests, notes)
    return variables


def _value_from(
    name: str, origin: Mapping[str, Any], manifests: _Manifests, notes: list[str]
) -> Word:
    """Return the value of a variable that is defined elsewhere. Without a value in the files, the
    variable of the shell is used.
    """
    for field, kind in (("secretKeyRef", "secret"), ("configMapKeyRef", "configmap")):
        reference = origin.get(field)
        if reference is None:
            continue
        owner, key = reference.get("name"), scalar(reference.get("key"))
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
    volumes = {volume.get("name"): volume for volume in pod.get("volumes") or ()}
    for item in container.get("volumeMounts") or ():
        target = Word.of(scalar(item.get("mountPath")).rstrip("/") or "/")
        name = item.get("name")
        volume = volumes.get(name) or {}
        path = (volume.get("hostPath") or {}).get("path")
        if path is not None:
            within = scalar(item.get("subPath"))
            yield Mount(target, Word.of(f"{path.rstrip('/')}/{within}" if within else path))
        else:
            claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            yield Mount(target, volume=scalar(claim or name))


def _lost(pod: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    yield from (name for name in _LOST if container.get(name))
    resources = container.get("resources") or {}
    limits = {*(resources.get("limits") or {}), *(resources.get("requests") or {})}
    yield from (f"resources.{name}" for name in ("cpu", "memory") if name in limits)
    if pod.get("replicas") is not None:
        yield "replicas"
    yield from (name for name in ("restartPolicy", "nodeSelector") if pod.get(name))
