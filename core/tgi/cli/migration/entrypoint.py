"""Finds the arguments of the launcher in the entry point and the command of a container."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tgi.cli.migration.data import DROPPED_FLAGS, RENAMED_FLAGS, SAGEMAKER_VARIABLES
from tgi.cli.migration.images import image_facts
from tgi.cli.migration.launch import Container, Launch
from tgi.cli.migration.shell import Command, parse_script
from tgi.cli.migration.words import Expansion, Word, expand, known_values
from tgi.config import OPTIONS, UsageError

__all__ = ["LAUNCHERS", "LAUNCHER_ENTRY_POINTS", "launch_in_container", "shell_script_of"]

LAUNCHERS = ("text-generation-launcher", "text-generation-router-llamacpp")
LAUNCHER_ENTRY_POINTS = ("tgi-entrypoint.sh", "tgi-llamacpp-entrypoint.sh")
_SAGEMAKER_ENTRY_POINT = "sagemaker-entrypoint.sh"
_SHELLS = ("sh", "bash", "dash", "zsh", "ash")
_SCRIPT_FLAG = re.compile(r"-[a-z]*c")


def launch_in_container(
    container: Container,
    command: Sequence[Word],
    variables: Mapping[str, Word],
    notes: Sequence[str] = (),
) -> Launch:
    """Return the `Launch` for a container that runs the launcher. `command` contains the words
    after the image. Raises `UsageError` if the container does not run the launcher.
    """
    words = [*(container.entrypoint or ()), *command]
    program = words[0].text.rpartition("/")[2] if words else ""
    launch = Launch(tuple(words), dict(variables), container, notes=tuple(notes))
    if program in LAUNCHERS or program in LAUNCHER_ENTRY_POINTS:
        return replace(launch, arguments=tuple(words[1:]))
    if program == _SAGEMAKER_ENTRY_POINT:
        return replace(launch, arguments=tuple(words[1:]), is_sagemaker=True)
    if (script := shell_script_of(words)) is not None:
        return _launch_in_script(launch, script)
    if container.entrypoint:
        raise UsageError(
            f"error: the container runs `{container.entrypoint[0].text}` instead of the launcher,"
            " and tgi migrate cannot read this program.",
            "Give the `text-generation-launcher` command that this program runs.",
        )
    if words and not words[0].starts_with("-") and not words[0].expansions:
        _check_command_word(container, words[0])
    return _with_known_image(launch)


def shell_script_of(words: Sequence[Word]) -> Word | None:
    """Return the script in a command such as `sh -c SCRIPT`, or None for another command."""
    if not words or words[0].text.rpartition("/")[2] not in _SHELLS:
        return None
    for at, word in enumerate(words[1:-1], start=1):
        if _SCRIPT_FLAG.fullmatch(word.text):
            return words[at + 1]
        if not word.starts_with("-"):
            return None
    return None


def _launch_in_script(launch: Launch, script: Word) -> Launch:
    """Return the `Launch` for the launcher command in a script that a shell in the container runs.
    The shell expands the variables of the container.
    """
    source, outer = _source(script)
    commands = [s for s in parse_script(source).statements if isinstance(s, Command)]
    starts = [command for command in commands if _launcher_at(command) is not None]
    if not starts:
        raise UsageError(
            f"error: the script of the container does not start TGI: `{script.text}`.",
            "Give the `text-generation-launcher` command.",
        )
    start = starts[0]
    at = _launcher_at(start) or 0
    values = known_values({**launch.variables, **outer})
    words = tuple(expand(word, values) for word in start.words[at + 1 :])
    own = {each.name: expand(each.value, values) for each in start.assignments}
    others = [command.source for command in commands if command is not start]
    note = (
        [f"Commands of the script were left out: {', '.join(f'`{s}`' for s in others)}."]
        if others
        else []
    )
    return replace(
        launch,
        arguments=words,
        variables={**launch.variables, **own},
        notes=(*launch.notes, *note),
    )


def _source(script: Word) -> tuple[str, dict[str, Word]]:
    """Return the text of a script. A part that the outer shell expands becomes a variable. The
    second value maps these variables to their parts.
    """
    outer: dict[str, Word] = {}
    parts = []
    for atom in script.atoms:
        if isinstance(atom, Expansion):
            name = f"OUTER_{len(outer)}"
            outer[name] = Word((atom,))
            parts.append(f"${{{name}}}")
        else:
            parts.append(atom)
    return "".join(parts), outer


def _launcher_at(command: Command) -> int | None:
    """Return the position of the launcher in the words of a command, or None."""
    names = [word.text.rpartition("/")[2] for word in command.words]
    return next((at for at, name in enumerate(names) if name in LAUNCHERS), None)


def _check_command_word(container: Container, word: Word) -> None:
    """Raise `UsageError` if the first word after an unknown image is another program."""
    if not image_facts(container.image).is_known and "/" not in word.text:
        raise _unknown_image(container.image)


def _with_known_image(launch: Launch) -> Launch:
    """Return `launch`, with a note if the image is unknown. Raises `UsageError` if neither the
    image nor the arguments are those of TGI.
    """
    container = launch.container
    if container is None or image_facts(container.image).is_known:
        return launch
    if not _looks_like_the_launcher(launch):
        raise _unknown_image(container.image)
    name = container.image.text
    note = (
        f"The image `{name}` is not known. Its arguments are read as those of the launcher."
        if name
        else "The image is built from a Dockerfile, which was not read. The arguments are read as"
        " those of the launcher."
    )
    return replace(launch, notes=(note, *launch.notes))


def _looks_like_the_launcher(launch: Launch) -> bool:
    flags = {row.flag for row in OPTIONS} | {"-p", "-e", "-g"} | DROPPED_FLAGS.keys()
    flags |= RENAMED_FLAGS.keys()
    used = [w.partition("=")[0].text for w in launch.arguments if w.starts_with("-")]
    is_named = "--model-id" in used or bool(
        {"MODEL_ID", *SAGEMAKER_VARIABLES} & launch.variables.keys()
    )
    return is_named and all(flag in flags for flag in used)


def _unknown_image(image: Word) -> UsageError:
    return UsageError(
        f"error: the image `{image.text}` is not an image of TGI.",
        "The names of TGI's images contain `text-generation-inference` or `tgi-`. For another"
        " image, give the `text-generation-launcher` command that it runs.",
    )
