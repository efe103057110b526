"""Parses TGI 3 commands: launcher commands, `docker run` commands and Docker Compose files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import yaml  # type: ignore[import-untyped]  # the type stubs are in a separate package

from tgi.config import UsageError

__all__ = ["Container", "LauncherStart", "PublishedPort", "read_compose", "read_line"]

_LAUNCHER = "text-generation-launcher"
_IMAGE_MARK = "text-generation-inference"
_CONTAINER_PROGRAMS = ("docker", "podman", "nerdctl")
_SKIPPED_PROGRAMS = ("sudo", "exec", "nohup", "env", "time")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")

_FLAGS_WITHOUT_VALUE = frozenset(
    {
        *(
            "-d",
            "--detach",
            "-i",
            "--interactive",
            "-t",
            "--tty",
            "-it",
            "-ti",
            "-dit",
            "-itd",
            "-P",
            "--publish-all",
        ),
        *(
            "--rm",
            "--init",
            "--privileged",
            "--read-only",
            "--no-healthcheck",
            "--oom-kill-disable",
            "-q",
            "--quiet",
        ),
    }
)
_DEVICE_FLAGS = ("--gpus", "--device", "--runtime")


@final
@dataclass(frozen=True)
class PublishedPort:
    """The port of the host at which a port of a container is published."""

    port: int
    address: str = ""  # empty = all addresses


@final
@dataclass(frozen=True)
class Container:
    """The container in which a command runs."""

    image: str
    ports: Mapping[int, PublishedPort] = field(default_factory=dict)  # by port of the container
    volumes: Mapping[str, str] = field(default_factory=dict)  # host path by container path
    has_host_network: bool = False
    notes: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class LauncherStart:
    """The arguments and environment variables of the launcher. `container` is None if the launcher
    does not run in a container.
    """

    arguments: tuple[str, ...]
    variables: Mapping[str, str]
    container: Container | None = None


def read_line(line: str) -> LauncherStart:
    """Parse a shell command. Raises `UsageError` if the command does not start TGI."""
    try:
        words = shlex.split(line.replace("\\\r\n", " ").replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise UsageError(
            f"error: the command cannot be parsed: {error}.",
            "Quote the whole command: tgi migrate '…'.",
        ) from error
    variables: dict[str, str] = {}
    while words and (_ASSIGNMENT.match(words[0]) or words[0] in _SKIPPED_PROGRAMS):
        word = words.pop(0)
        if "=" in word:
            _assign(variables, word)
    program = words[0].rpartition("/")[2] if words else ""
    if program == _LAUNCHER:
        return LauncherStart(tuple(words[1:]), variables)
    if program in _CONTAINER_PROGRAMS and "run" in words[1:3]:
        return _read_run(words[words.index("run") + 1 :], variables)
    raise UsageError(
        f"error: the command begins with `{program}`, which does not start TGI.",
        f"Give a `{_LAUNCHER}` or `docker run` command.",
    )


def read_compose(text: str) -> dict[str, LauncherStart]:
    """Return the services of a Docker Compose file that run TGI, by name. Raises `UsageError` if no
    service runs TGI.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(
            f"error: the Compose file is not valid YAML: {' '.join(str(error).split())}.",
            "Correct the file.",
        ) from error
    services = document.get("services") if isinstance(document, dict) else None
    starts = {
        str(name): _read_service(service)
        for name, service in (services.items() if isinstance(services, dict) else ())
        if isinstance(service, dict) and _is_tgi(service)
    }
    if not starts:
        raise UsageError(
            f"error: no service in the Compose file has an image `…{_IMAGE_MARK}…`.",
            "Give the Compose file that starts TGI.",
        )
    return starts


def _read_run(words: list[str], shell_variables: Mapping[str, str]) -> LauncherStart:
    variables: dict[str, str] = {}
    ports, volumes, notes = list[str](), list[str](), list[str]()
    has_host_network, entrypoint = False, ""
    rest = list(words)
    while rest and rest[0].startswith("-"):
        flag, value = _next_flag(rest)
        match flag:
            case "-e" | "--env":
                _assign(variables, value, shell_variables)
            case "-p" | "--publish":
                ports.append(value)
            case "-v" | "--volume":
                volumes.append(value)
            case "--mount":
                volumes.append(_volume_of_mount(value))
            case "--network" | "--net":
                has_host_network = value == "host"
            case "--entrypoint":
                entrypoint = value
            case "--env-file":
                notes.append(
                    f"The variables in `{value}` were not read. Add the required variables."
                )
            case _ if flag in _DEVICE_FLAGS:
                notes.append(
                    f"`{flag} {value}` is not needed. `tgi backends` lists the visible devices."
                )
    if not rest:
        raise UsageError(
            "error: the command contains no image.", "Give the whole `docker run` command."
        )
    image, *arguments = rest
    _check_image(image, entrypoint)
    container = Container(image, _ports(ports), _volumes(volumes), has_host_network, tuple(notes))
    return LauncherStart(_launcher_arguments(arguments), variables, container)


def _next_flag(rest: list[str]) -> tuple[str, str]:
    """Remove the first flag from `rest`. Returns the flag and its value, or an empty value."""
    word = rest.pop(0)
    if word in _FLAGS_WITHOUT_VALUE:
        return word, ""
    if word.startswith("--"):
        flag, equals, value = word.partition("=")
    else:
        flag, value = word[:2], word[2:].removeprefix("=")
        equals = value
    if not equals:
        if not rest:
            raise UsageError(
                f"error: a value is required for '{flag}' but none was supplied.",
                "Give the whole command.",
            )
        value = rest.pop(0)
    return flag, value


def _read_service(service: Mapping[str, Any]) -> LauncherStart:
    variables: dict[str, str] = {}
    environment = service.get("environment") or {}
    if isinstance(environment, dict):
        variables |= {
            str(name): _scalar(value) for name, value in environment.items() if value is not None
        }
    else:
        for word in environment:
            _assign(variables, str(word))
    notes = []
    if service.get("env_file"):
        notes.append(
            f"The variables in `{service['env_file']}` were not read. Add the required variables."
        )
    if service.get("deploy") or service.get("devices") or service.get("runtime"):
        notes.append("Reserved devices are not needed. `tgi backends` lists the visible devices.")
    container = Container(
        str(service["image"]),
        _ports(_compose_port(port) for port in service.get("ports") or ()),
        _volumes(_compose_volume(volume) for volume in service.get("volumes") or ()),
        service.get("network_mode") == "host",
        tuple(notes),
    )
    return LauncherStart(
        _launcher_arguments(_command(service.get("command"))), variables, container
    )


def _is_tgi(service: Mapping[str, Any]) -> bool:
    return _IMAGE_MARK in str(service.get("image", ""))


def _check_image(image: str, entrypoint: str) -> None:
    if _IMAGE_MARK not in image and not entrypoint.endswith(_LAUNCHER):
        raise UsageError(
            f"error: the image `{image}` is not an image of TGI.",
            f"The names of TGI's images contain `{_IMAGE_MARK}`.",
        )


def _launcher_arguments(words: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments of the launcher. `words` are the words after the image. The first word
    may be the launcher itself.
    """
    return tuple(words[1:] if words and words[0].endswith(_LAUNCHER) else words)


def _command(command: object) -> list[str]:
    if isinstance(command, str):
        return shlex.split(command.replace("\\\n", " "))
    return [_scalar(word) for word in command] if isinstance(command, list) else []


def _compose_port(port: object) -> str:
    if not isinstance(port, dict):
        return str(port)
    return ":".join(
        str(port[name]) for name in ("host_ip", "published", "target") if port.get(name)
    )


def _compose_volume(volume: object) -> str:
    return (
        f"{volume.get('source', '')}:{volume.get('target', '')}"
        if isinstance(volume, dict)
        else str(volume)
    )


def _scalar(value: object) -> str:
    """Return a YAML value as the text that the launcher receives."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _assign(
    variables: dict[str, str], word: str, shell_variables: Mapping[str, str] | None = None
) -> None:
    """Add the variable in `NAME=value` to `variables`. If `word` is only a name, the value of the
    shell's variable is used.
    """
    name, equals, value = word.partition("=")
    variables[name] = value if equals else (shell_variables or {}).get(name, f"${name}")


def _ports(mappings: Iterable[str]) -> dict[int, PublishedPort]:
    """Parse port mappings such as `8080:80` and `127.0.0.1:8080:80/tcp`. Returns the published
    ports by the port inside of the container. Port ranges are omitted.
    """
    ports = {}
    for mapping in mappings:
        *outside, inside = mapping.partition("/")[0].split(":")
        port = outside[-1] if outside else inside
        if port.isdecimal() and inside.isdecimal():
            ports[int(inside)] = PublishedPort(int(port), ":".join(outside[:-1]).strip("[]"))
    return ports


def _volumes(mappings: Iterable[str]) -> dict[str, str]:
    """Parse volume mappings such as `/outside:/inside:ro`. Returns the paths outside of the
    container by the path inside.
    """
    pairs = (mapping.split(":") for mapping in mappings)
    return {parts[1]: parts[0] for parts in pairs if len(parts) > 1}


def _volume_of_mount(mount: str) -> str:
    parts = dict(part.partition("=")[::2] for part in mount.split(","))
    source = parts.get("source") or parts.get("src", "")
    return f"{source}:{parts.get('target') or parts.get('dst', '')}"
