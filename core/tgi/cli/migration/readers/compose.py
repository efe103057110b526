"""Reads the services of a Docker Compose file that run TGI."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tgi.cli.migration.container_run import env_file_note
from tgi.cli.migration.container_values import read_port, read_volume, split_variable
from tgi.cli.migration.data import DEVICE_RUNTIME
from tgi.cli.migration.entrypoint import launch_in_container
from tgi.cli.migration.images import image_facts
from tgi.cli.migration.launch import Container, Devices, Launch, Mount
from tgi.cli.migration.readers.interpolation import (
    interpolated,
    mapping,
    mappings,
    scalar,
    sequence,
    split_words,
)
from tgi.cli.migration.words import Expansion, Word, variable
from tgi.config import UsageError

__all__ = ["read_services"]

_LOST = (
    *("restart", "healthcheck", "mem_limit", "mem_reservation", "memswap_limit", "cpus", "cpuset"),
    *("user", "secrets", "configs", "logging", "ulimits", "read_only", "scale", "depends_on"),
    *("stop_grace_period", "stop_signal", "extra_hosts", "dns", "sysctls", "tmpfs", "pids_limit"),
    *("working_dir", "userns_mode", "group_add", "extends"),
)
_NAME = re.compile(r"\$\{?([A-Za-z_]\w*)")


def read_services(services: Mapping[str, Any]) -> dict[str, Launch | UsageError]:
    """Return the services that run TGI by name, each with its `Launch` or with the reason
    for which it cannot be read.
    """
    found: dict[str, Launch | UsageError] = {}
    for name, service in services.items():
        if not isinstance(service, dict):
            continue
        try:
            found[str(name)] = _read_service(service, [str(other) for other in services])
        except UsageError as error:
            if image_facts(interpolated(service.get("image"))).is_known:
                found[str(name)] = error
    return found


def _read_service(service: Mapping[str, Any], names: Iterable[str]) -> Launch:
    variables = _environment(service.get("environment"))
    mounts = (_volume(volume) for volume in sequence(service.get("volumes")))
    entrypoint = service.get("entrypoint")
    container = Container(
        interpolated(service.get("image")),
        tuple(
            port
            for each in sequence(service.get("ports"))
            for port in read_port(_port_mapping(each))
        ),
        tuple(mount for mount in mounts if mount is not None),
        service.get("network_mode") == "host",
        _devices(service),
        None if entrypoint is None else tuple(_command(entrypoint)),
        tuple(_lost(service)),
    )
    notes = [env_file_note(name) for name in _env_files(service.get("env_file"))]
    if service.get("deploy") or service.get("devices") or service.get("runtime"):
        notes.append("Reserved devices are not needed. `tgi backends` lists the visible devices.")
    command = _command(service.get("command"))
    notes += _variable_notes(container, command, variables)
    notes += _host_notes([*variables.values(), *command], names)
    return launch_in_container(container, command, variables, notes)


def _environment(environment: object) -> dict[str, Word]:
    if isinstance(environment, dict):
        return {
            name: variable(name) if value is None else interpolated(value)
            for name, value in mapping(environment).items()
        }
    variables = {}
    for word in sequence(environment):
        name, value = split_variable(interpolated(word))
        variables[name] = variable(name) if value is None else value
    return variables


def _command(command: object) -> list[Word]:
    if isinstance(command, list):
        return [interpolated(word) for word in command]
    return [] if command is None else split_words(interpolated(command))


def _env_files(files: object) -> list[str]:
    return [scalar(f.get("path") if isinstance(f, dict) else f) for f in sequence(files)]


def _port_mapping(port: object) -> Word:
    if not isinstance(port, dict):
        return interpolated(port)
    parts = [port[name] for name in ("host_ip", "published", "target") if port.get(name)]
    return interpolated(":".join(map(scalar, parts)))


def _volume(volume: object) -> Mount | None:
    if not isinstance(volume, dict):
        return read_volume(_with_home(interpolated(volume)))
    if volume.get("type") == "tmpfs":
        return None
    source = _with_home(interpolated(volume.get("source")))
    return read_volume(source + Word.of(":") + interpolated(volume.get("target")))


def _with_home(word: Word) -> Word:
    """Return the path with its `~` as an expansion. Compose replaces it by the home folder."""
    if word.atoms[:2] == ("~", "/"):
        return Word((Expansion("~"), *word.atoms[1:]))
    return word


def _devices(service: Mapping[str, Any]) -> Devices | None:
    if service.get("gpus") == "all":
        return Devices()
    resources = mapping(mapping(service.get("deploy")).get("resources"))
    reservations = mapping(resources.get("reservations"))
    for request in [*mappings(reservations.get("devices")), *mappings(service.get("gpus"))]:
        if request.get("device_ids"):
            ids = [interpolated(each) for each in sequence(request["device_ids"])]
            joined = ids[0]
            for each in ids[1:]:
                joined = joined + Word.of(",") + each
            return Devices(ids=joined)
        count = request.get("count", "all")
        return Devices(count=count if isinstance(count, int) else None)
    return Devices() if service.get("runtime") == DEVICE_RUNTIME else None


def _lost(service: Mapping[str, Any]) -> list[str]:
    deploy = mapping(service.get("deploy"))
    lost = [name for name in _LOST if service.get(name)]
    lost += [f"deploy.{name}" for name in ("replicas", "restart_policy") if deploy.get(name)]
    if mapping(deploy.get("resources")).get("limits"):
        lost.append("deploy.resources.limits")
    return lost


def _variable_notes(
    container: Container, command: Iterable[Word], variables: Mapping[str, Word]
) -> list[str]:
    """Return sentences about the variables that Compose replaces."""
    words = [container.image, *command, *variables.values()]
    words += [each for port in container.ports for each in (port.outside, port.inside)]
    words += [mount.source for mount in container.mounts]
    used = {name for word in words for e in word.expansions for name in _NAME.findall(e.source)}
    notes = []
    if used:
        shown = ", ".join(f"`{name}`" for name in sorted(used))
        notes.append(
            f"Compose also reads {shown} from the file `.env`. Load this file first if there is"
            " one: `set -a; . ./.env; set +a`."
        )
    notes += [
        f"Compose replaces `${name}` by the variable of your shell or of `.env`, and not by the"
        f" value `{variables[name].text}` under `environment`."
        for name in sorted(used & variables.keys())
        if variables[name].literal is not None
    ]
    return notes


def _host_notes(words: Iterable[Word], names: Iterable[str]) -> list[str]:
    """Return sentences about the names of other services in URLs."""
    texts = [word.text for word in words]
    found = {name for name in names for text in texts if re.search(rf"//{re.escape(name)}\b", text)}
    return [
        f"The host name `{name}` is known only inside of the Compose network. Replace it with an"
        " address that the host can reach."
        for name in sorted(found)
    ]
