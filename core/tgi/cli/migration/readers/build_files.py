"""Finds the commands that start TGI 3 in Dockerfiles, makefiles and systemd units."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator

from tgi.cli.migration.container_run import env_file_note
from tgi.cli.migration.entrypoint import launch_in_container
from tgi.cli.migration.launch import Container, Launch
from tgi.cli.migration.readers.interpolation import split_words
from tgi.cli.migration.script import read_script
from tgi.cli.migration.shell import parse_script
from tgi.cli.migration.words import Word, expand, known_values
from tgi.config import UsageError

__all__ = ["read_dockerfile", "read_makefile", "read_unit"]

_CONTINUATION = re.compile(r"\\\s*\n")
_MAKE_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)\s*(\?=|::?=|=)\s*(.*)")
_MAKE_REFERENCE = re.compile(r"\$\((\w+)\)|\$\{(\w+)\}")
_MAKE_SHELL = re.compile(r"\$\(shell\s+")
_STARTS = re.compile(r"text-generation-launcher|\b(?:docker|podman|nerdctl)\b.*\brun\b")
_SPECIFIERS = {"%%": "%", "%h": "$HOME", "%u": "$USER", "%H": "$(hostname)"}


def read_dockerfile(text: str) -> dict[str, Launch | UsageError]:
    """Return the `Launch` of the image that a Dockerfile builds."""
    image, variables = Word(), dict[str, Word]()
    defaults: dict[str, Word] = {}
    entrypoint: tuple[Word, ...] | None = None
    command: list[Word] = []
    for name, rest in _instructions(text):
        values = {**defaults, **variables}
        match name:
            case "FROM":
                image = _replaced(rest.split()[0], values)
                variables, entrypoint, command = {}, None, []
            case "ARG":
                key, _, value = rest.partition("=")
                defaults[key.strip()] = Word.of(value.strip("\"' "))
            case "ENV":
                variables |= _docker_variables(rest, values)
            case "ENTRYPOINT":
                entrypoint = tuple(_docker_command(rest))
            case "CMD":
                command = _docker_command(rest)
    container = Container(image, entrypoint=entrypoint)
    return {"": launch_in_container(container, command, variables)}


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in _CONTINUATION.sub(" ", lines).splitlines():
        name, _, rest = line.strip().partition(" ")
        if name:
            yield name.upper(), rest.strip()


def _replaced(text: str, values: dict[str, Word]) -> Word:
    statements = parse_script(f"x={text}").statements
    word = getattr(statements[0], "value", Word.of(text))
    return expand(word, known_values(values))


def _docker_variables(rest: str, values: dict[str, Word]) -> dict[str, Word]:
    first = rest.split(None, 1)
    if "=" not in first[0]:
        return {first[0]: _replaced(f'"{first[1]}"' if len(first) > 1 else "", values)}
    parsed = parse_script(f"{rest} :").statements[0]
    assignments = getattr(parsed, "assignments", ())
    return {each.name: expand(each.value, known_values(values)) for each in assignments}


def _docker_command(rest: str) -> list[Word]:
    """Return the words of the JSON form. The shell form becomes a script of a shell."""
    try:
        items = json.loads(rest)
    except ValueError:
        return [Word.of("/bin/sh"), Word.of("-c"), Word.of(rest)]
    return [Word.of(str(item)) for item in items] if isinstance(items, list) else []


def read_makefile(text: str) -> dict[str, Launch | UsageError]:
    """Return the commands in the recipes of a makefile that start TGI, by target."""
    assignments: list[str] = []
    found: dict[str, Launch | UsageError] = {}
    target = ""
    for line in _CONTINUATION.sub(" ", text).splitlines():
        match = _MAKE_ASSIGNMENT.fullmatch(line.strip())
        if match is not None and not line.startswith("\t"):
            assignments.append(_make_assignment(match))
        elif line.startswith("\t"):
            recipe = line.strip().lstrip("@-+")
            if _STARTS.search(recipe):
                found[target] = _read_or_error("\n".join([*assignments, _from_make(recipe)]))
        elif (rule := re.match(r"([\w./%-]+)\s*:(?!=)", line)) is not None:
            target = rule[1]
    return found


def _make_assignment(match: re.Match[str]) -> str:
    name, operator, value = match.groups()
    written = '"' + re.sub(r'(["\\`])', r"\\\1", _from_make(value.partition(" #")[0].strip())) + '"'
    if operator == "?=":
        return f"{name}=${{{name}:-{written}}}"
    return f"{name}={written}"


def _from_make(text: str) -> str:
    """Write the variables of make as variables of the shell. `$$` is a dollar sign of the shell."""
    marked = text.replace("$$", "\0")
    marked = _MAKE_SHELL.sub("$(", marked).replace("$(CURDIR)", "$PWD")
    marked = _MAKE_REFERENCE.sub(lambda match: f"${{{match[1] or match[2]}}}", marked)
    return marked.replace("\0", "$")


def _read_or_error(script: str) -> Launch | UsageError:
    try:
        return read_script(script)[0]
    except UsageError as error:
        return error


def read_unit(text: str) -> dict[str, Launch | UsageError]:
    """Return the command in a systemd unit that starts TGI."""
    exports: list[str] = []
    notes: list[str] = []
    starts: list[str] = []
    for line in _CONTINUATION.sub(" ", text).splitlines():
        key, _, value = line.strip().partition("=")
        match key.strip():
            case "Environment":
                for word in split_words(Word.of(value)):
                    name, _, content = word.text.partition("=")
                    exports.append(f"export {name}={shlex.quote(content)}")
            case "EnvironmentFile":
                notes.append(env_file_note(value.strip().lstrip("-")))
            case "ExecStart":
                starts.append(_from_unit(value.strip().lstrip("@-:+!")))
            case "Restart" | "User" | "MemoryMax" | "WatchdogSec":
                notes.append(f"`{line.strip()}` stays in the unit. Replace only `ExecStart`.")
    if not starts:
        raise UsageError("error: the unit has no `ExecStart`.", "Give the unit that starts TGI.")
    (launch, *_) = read_script("\n".join([*exports, *starts]))
    return {"": _with_notes(launch, notes)}


def _from_unit(command: str) -> str:
    for specifier, text in _SPECIFIERS.items():
        command = command.replace(specifier, text)
    return command.replace("$$", "\\$")


def _with_notes(launch: Launch, notes: list[str]) -> Launch:
    return Launch(
        launch.arguments,
        launch.variables,
        launch.container,
        launch.setup,
        launch.assigned,
        (*launch.notes, *notes),
        launch.is_sagemaker,
    )
