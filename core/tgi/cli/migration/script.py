"""Finds the commands in a shell script that start TGI, with the assignments that they need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tgi.cli.migration.container_flags import word_set
from tgi.cli.migration.container_run import CONTAINER_PROGRAMS, read_container_command
from tgi.cli.migration.data import IMAGE_NAMES
from tgi.cli.migration.entrypoint import LAUNCHERS, shell_script_of
from tgi.cli.migration.launch import Launch
from tgi.cli.migration.shell import Assignment, Command, Script, parse_script
from tgi.cli.migration.words import Word, expand, known_values
from tgi.config import UsageError

__all__ = ["read_script"]

_WRAPPERS = word_set(
    """accelerate chrt command conda doas dumb-init env exec ionice mamba micromamba nice nohup
    numactl pipenv poetry screen setsid srun stdbuf sudo systemd-run taskset tee time timeout tini
    tmux unbuffer uv watch xvfb-run"""
)
_UNREPORTED_WRAPPERS = word_set("command doas env exec sudo tee time")
_VARIABLE_NAME = re.compile(r"[A-Za-z_]\w*")
_REFERENCE = re.compile(r"\$\{?([A-Za-z_]\w*)")
_ASSIGNED_BY_CALLER = re.compile(r"\$\{?([0-9@*#])")
_SHOWN_LEFT_OUT = 5


def read_script(text: str, variables: Mapping[str, Word] | None = None) -> list[Launch]:
    """Return a `Launch` for each command in a script that starts TGI. The script can be a single
    command. `variables` are set in the environment of the script. Raises `UsageError` if no command
    starts TGI.
    """
    script = parse_script(text)
    exported = dict(variables or {})
    values: dict[str, Word] = {}
    found: list[tuple[int, Launch]] = []
    errors: list[UsageError] = []
    for at, statement in enumerate(script.statements):
        if isinstance(statement, Assignment):
            if statement.is_exported:
                exported[statement.name] = statement.value
            _note_value(statement, values)
            continue
        try:
            launch = _read(_with_image(statement, values), exported)
        except UsageError as error:
            if any(name in statement.source for name in IMAGE_NAMES):
                raise
            errors.append(error)  # the command runs another image
            continue
        if launch is not None:
            found.append((at, launch))
    if not found:
        raise errors[0] if errors else _no_start(script)
    return [_in_script(launch, script, at, len(found)) for at, launch in found]


def _note_value(assignment: Assignment, values: dict[str, Word]) -> None:
    """Record the value of a variable, if it is certain."""
    value = expand(assignment.value, known_values(values))
    if value.expansions or assignment.is_conditional:
        values.pop(assignment.name, None)
    else:
        values[assignment.name] = value


def _with_image(command: Command, values: Mapping[str, Word]) -> Command:
    """Replace the variables in the words that contain the name of an image of TGI. Its version and
    its hardware determine how the command is converted.
    """
    expanded = [(word, expand(word, known_values(values))) for word in command.words]
    words = (new if any(n in new.text for n in IMAGE_NAMES) else old for old, new in expanded)
    return replace(command, words=tuple(words))


def _read(command: Command, exported: Mapping[str, Word]) -> Launch | None:
    """Return the `Launch` of a command that starts TGI, or None for any other command."""
    variables = dict(exported) | {each.name: each.value for each in command.assignments}
    words = list(command.words)
    notes: list[str] = []
    while words:
        program = words[0].text.rpartition("/")[2]
        launch = _start(program, words, variables)
        if launch is not None:
            return replace(launch, notes=(*notes, *launch.notes))
        if program not in _WRAPPERS:
            return None
        rest = _after_wrapper(words[1:], variables)
        if program not in _UNREPORTED_WRAPPERS:
            left = " ".join(word.text for word in words[: len(words) - len(rest)])
            notes.append(f"Left out before the command: `{left}`. Write it again if you need it.")
        words = rest
    return None


def _start(program: str, words: list[Word], variables: Mapping[str, Word]) -> Launch | None:
    """Return the start of TGI in the words of a command, or None if `program` starts something
    else.
    """
    if program in LAUNCHERS:
        return Launch(tuple(words[1:]), dict(variables))
    if program in CONTAINER_PROGRAMS:
        return read_container_command(program, words[1:], variables)
    inner = shell_script_of(words)
    if inner is not None and any(name in inner.text for name in (*LAUNCHERS, "docker")):
        return read_script(inner.text, variables)[0]
    return None


def _after_wrapper(words: list[Word], variables: dict[str, Word]) -> list[Word]:
    """Remove the arguments of a program such as `sudo` that runs another program. Assignments among
    the arguments are added to `variables`.
    """
    while words:
        program = words[0].text.rpartition("/")[2]
        is_shell = shell_script_of(words) is not None
        if (
            program in LAUNCHERS
            or program in CONTAINER_PROGRAMS
            or program in _WRAPPERS
            or is_shell
        ):
            break
        word = words.pop(0)
        name, has_value, value = word.partition("=")
        if has_value and _VARIABLE_NAME.fullmatch(name.text):
            variables[name.text] = value
    return words


def _no_start(script: Script) -> UsageError:
    commands = [s for s in script.statements if isinstance(s, Command)]
    program = commands[0].program if commands else ""
    if any(_reads_compose_file(command) for command in commands):
        return UsageError(
            "error: the command reads a Compose file, and the content of this file is unknown.",
            "Give the name of the Compose file to tgi migrate.",
        )
    begin = (
        f"the command begins with `{program}`, which does not start TGI"
        if len(commands) <= 1
        else "no command in the text starts TGI"
    )
    return UsageError(f"error: {begin}.", f"Give a `{LAUNCHERS[0]}` or `docker run` command.")


def _reads_compose_file(command: Command) -> bool:
    texts = [word.text for word in command.words]
    return "docker-compose" in texts or ("docker" in texts and "compose" in texts)


def _in_script(launch: Launch, script: Script, at: int, starts: int) -> Launch:
    """Add the assignments that the command needs, and notes about the other statements."""
    before = [s for s in script.statements[:at] if isinstance(s, Assignment)]
    needed = _needed(before, _references(launch))
    start = script.statements[at]
    notes = list(launch.notes)
    if isinstance(start, Command):
        notes += _context_notes(start, needed)
    if starts == 1:
        notes += _left_out(script, at)
    notes += [
        f"`{text}` is a placeholder. Replace it with the real value."
        for text in script.placeholders
    ]
    if script.make_variables:
        names = ", ".join(f"`$({name})`" for name in script.make_variables)
        notes.append(f"The make variables {names} are written as shell variables.")
    # A compound statement around the start stays where it is.
    outside = (s.source for s in needed if not (s.is_conditional and start.source in s.source))
    sources = tuple(dict.fromkeys(outside))
    return replace(
        launch,
        setup=(*launch.setup, *sources),
        assigned=launch.assigned | {s.name for s in needed},
        notes=tuple(notes),
    )


def _references(launch: Launch) -> set[str]:
    words = [*launch.arguments, *launch.variables.values()]
    if (container := launch.container) is not None:
        words += [container.image, *(container.entrypoint or ())]
        words += [w for port in container.ports for w in (port.inside, port.outside, port.address)]
        words += [w for mount in container.mounts for w in (mount.source, mount.target)]
        if container.devices is not None and container.devices.ids is not None:
            words.append(container.devices.ids)
    return _names(words)


def _names(words: Iterable[Word]) -> set[str]:
    sources = (atom.source for word in words for atom in word.expansions)
    return {name for source in sources for name in _REFERENCE.findall(source)}


def _needed(before: Sequence[Assignment], names: set[str]) -> list[Assignment]:
    """Return the assignments to `names` and, recursively, to the variables that these assignments
    use. The order of the script is kept.
    """
    wanted, needed = set(names), []
    for assignment in reversed(before):
        if assignment.name in wanted:
            needed.append(assignment)
            wanted |= set(_REFERENCE.findall(assignment.source))
    return needed[::-1]


def _context_notes(start: Command, needed: Sequence[Assignment]) -> list[str]:
    notes = []
    if start.context:
        text = " ".join(start.context)
        notes.append(f"The text `{text}` after the command was left out. Append it if you need it.")
    if start.block:
        notes.append(
            f"The command is inside a `{start.block}` block. Put the new command at the same place."
        )
    sources = [start.source, *(assignment.source for assignment in needed)]
    positions = sorted({p for source in sources for p in _ASSIGNED_BY_CALLER.findall(source)})
    if positions:
        names = ", ".join(f"`${position}`" for position in positions)
        notes.append(
            f"The command uses arguments of the script: {names}. Run the new command in a script."
        )
    return notes


def _left_out(script: Script, at: int) -> list[str]:
    """Return notes about the statements other than the command that starts TGI."""
    others = [s for s in script.statements if isinstance(s, Command)]
    start = script.statements[at]
    dangling = [c for c in others if c.words and c.words[0].starts_with("-")]
    notes = [
        f"Line {command.line} (`{command.source}`) is not part of the command, because the line"
        " before does not end with a backslash. TGI 3 did not receive it."
        for command in dangling
    ]
    names = [
        c.source.splitlines()[0]
        for c in others
        if c is not start and c not in dangling and not _is_in_pipeline(c, start)
    ]
    if names:
        shown = ", ".join(f"`{name}`" for name in names[:_SHOWN_LEFT_OUT])
        more = len(names) - _SHOWN_LEFT_OUT
        rest = f" and {more} more" if more > 0 else ""
        notes.append(f"Other commands are not converted: {shown}{rest}.")
    return notes


def _is_in_pipeline(command: Command, start: Command | Assignment) -> bool:
    return isinstance(start, Command) and any(
        part.startswith("|") and command.source in part for part in start.context
    )
