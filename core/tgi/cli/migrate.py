"""Implements `tgi migrate`, which converts a TGI 3 command into a `tgi serve` command and lists the
differences.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import final

from tgi.cli.migration.data import (
    IMAGE_PORT,
    IMAGE_VARIANTS,
    KEPT_VARIABLES,
    MODEL_CACHE,
    REPLACED_VARIABLES,
    SAGEMAKER_PORT,
    SAGEMAKER_VARIABLES,
)
from tgi.cli.migration.sources import Container, LauncherStart, read_compose, read_line
from tgi.config import OPTIONS, Option, ServeOptions, UsageError, notes_on_options, parse_arguments

__all__ = ["Migration", "migrate", "run"]

_HELP = """Usage: tgi migrate 'LINE' | FILE

Convert a TGI 3 command into a `tgi serve` command. Print the command and the differences that
affect it.

LINE is a `text-generation-launcher` or `docker run` command in quotes. FILE is a Docker Compose
file."""

_COMPOSE_SUFFIXES = (".yaml", ".yml")
_DEFAULT_MODEL = "bigscience/bloom-560m"
_SHELL_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")


@final
@dataclass(frozen=True)
class Migration:
    """The `tgi serve` command, and one sentence per change."""

    command: str
    changes: tuple[str, ...]


def run(arguments: Sequence[str]) -> int:
    """Print the equivalent command and the changes. Returns the exit code."""
    if not arguments or any(word in ("-h", "--help") for word in arguments[:1]):
        print(_HELP)
        return 0
    for name, start in _read_starts(arguments):
        migration = migrate(start)
        print(f"# {name}\n{migration.command}" if name else migration.command)
        if migration.changes:
            print("\nWhat changes:")
            print("\n".join(f"* {change}" for change in migration.changes))
    return 0


def _read_starts(arguments: Sequence[str]) -> list[tuple[str, LauncherStart]]:
    """Return the TGI 3 commands, each with its service name. The name of a shell command is
    empty.
    """
    if len(arguments) > 1:
        return [("", read_line(shlex.join(arguments)))]
    (text,) = arguments
    path = Path(text.strip())
    if path.suffix in _COMPOSE_SUFFIXES:
        if not path.is_file():
            raise UsageError(
                f"error: the file `{path}` does not exist.",
                "Give the name of a Docker Compose file, or quote the whole command.",
            )
        return list(read_compose(path.read_text("utf-8")).items())
    return [("", read_line(text))]


def migrate(start: LauncherStart) -> Migration:
    """Convert one TGI 3 command. Raises `UsageError` if an option is invalid."""
    variables = dict(start.variables)
    changes: list[str] = []
    if start.container is not None:
        changes += _enter_container(start.container, variables)
    options = parse_arguments(start.arguments, variables).options
    assignments, kept = _variables(variables, changes)
    overrides = (
        {}
        if start.container is None
        else _leave_container(start.container, options, assignments, changes)
    )
    changes += _changes_of(options)
    words = ["tgi", "serve", *_words(options, overrides)]
    command = " ".join(
        [
            *(f"{name}={_quote(value)}" for name, value in (assignments | kept).items()),
            *map(_quote, words),
        ]
    )
    return Migration(command, tuple(changes))


def _enter_container(container: Container, variables: dict[str, str]) -> list[str]:
    """Add the variables that the image sets to `variables`. Returns sentences about the changes."""
    changes = []
    is_sagemaker = "HF_MODEL_ID" in variables and "MODEL_ID" not in variables
    if is_sagemaker:
        for theirs, ours in SAGEMAKER_VARIABLES.items():
            if theirs in variables:
                variables.setdefault(ours, variables.pop(theirs))
        changes.append(
            "The variables of SageMaker are converted to options. `tgi sagemaker` also accepts the"
            " variables."
        )
    variables.setdefault("PORT", str(SAGEMAKER_PORT if is_sagemaker else IMAGE_PORT))
    tag = container.image.partition("@")[0].rpartition(":")[2]
    variant = next((text for ending, text in IMAGE_VARIANTS.items() if ending in tag), "")
    changes.append(
        "Run the command in an environment with tgi installed. It replaces the image"
        f" `{container.image}`" + (f" ({variant})." if variant else ".")
    )
    changes += container.notes
    return changes


def _leave_container(
    container: Container, options: ServeOptions, assignments: dict[str, str], changes: list[str]
) -> dict[str, object]:
    """Return the options whose ports and paths are different outside of the container. Updates
    `assignments` and adds sentences to `changes`.
    """
    overrides: dict[str, object] = {}
    published = container.ports.get(options.port)
    if published is not None:
        overrides["port"], overrides["hostname"] = (
            published.port,
            published.address or options.hostname,
        )
    elif not container.has_host_network:
        changes.append(
            f"The container publishes no port for {options.port}. Choose a port with `--port`."
        )
    home = assignments.pop("HF_HOME", MODEL_CACHE)
    if (outside := _outside(container.volumes, home)) is not None:
        assignments["HF_HOME"] = outside
    for name in ("model_id", "tokenizer_config_path", "huggingface_hub_cache"):
        value = getattr(options, name)
        if isinstance(value, str) and value.startswith("/"):
            if (outside := _outside(container.volumes, value)) is None:
                changes.append(
                    f"`{value}` is a path inside the container. Replace it with the path outside."
                )
            else:
                overrides[name] = outside
    return overrides


def _outside(volumes: Mapping[str, str], path: str) -> str | None:
    """Return the path outside of the container for a path inside of it, or None if the path is not
    on a volume.
    """
    inside = PurePosixPath(path)
    for mount, source in volumes.items():
        if inside.is_relative_to(mount):
            rest = inside.relative_to(mount)
            return source if str(rest) == "." else f"{source.rstrip('/')}/{rest}"
    return None


def _variables(
    variables: Mapping[str, str], changes: list[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables that tgi reads, and the unknown variables. Variables that set options
    and variables without effect are omitted. Sentences are added to `changes`.
    """
    of_options = {row.environment for row in OPTIONS if row.environment}
    known, unknown = {}, {}
    for name, value in variables.items():
        if name in of_options:
            continue
        if name in REPLACED_VARIABLES:
            changes.append(f"`{name}` has no effect: {REPLACED_VARIABLES[name]}.")
        elif name in KEPT_VARIABLES:
            known[name] = value
        else:
            unknown[name] = value
            changes.append(f"`{name}` is not a variable of TGI. It is passed on unchanged.")
    return known, unknown


def _changes_of(options: ServeOptions) -> list[str]:
    changes = list(notes_on_options(options))
    if options.model_id is None:
        changes.append(f"The default model is the demo model. In TGI 3 it was `{_DEFAULT_MODEL}`.")
    if options.sharded is None and options.num_shard is None:
        changes.append(
            "TGI 3 split the model over all visible devices. The default of `--num-shard` is now 1."
        )
    if options.max_input_length is not None:
        changes.append("`--max-input-length` is now called `--max-input-tokens`.")
    if "*" in options.cors_allow_origin:
        changes.append("`--cors-allow-origin '*'` allows all origins. TGI 3 failed at startup.")
    return changes


def _words(options: ServeOptions, overrides: Mapping[str, object]) -> list[str]:
    """Return the options with a value other than the default, as command line words. The model is
    first.
    """
    words: list[str] = []
    values = {row.name: overrides.get(row.name, getattr(options, row.name)) for row in OPTIONS}
    if values["max_input_length"] is not None:
        values["max_input_tokens"] = values.pop("max_input_length")
    for row in OPTIONS:
        value = values.get(row.name, row.default)
        if value == row.default or row.no_effect:
            continue
        if row.name == "model_id":
            words.insert(0, str(value))
        else:
            words += _option_words(row, value)
    return words


def _option_words(row: Option, value: object) -> list[str]:
    if not row.takes_value:
        return [row.flag]
    if isinstance(value, tuple):
        texts = [str(item) for item in value]
        return (
            [row.flag, row.separator.join(texts)]
            if row.separator
            else [w for text in texts for w in (row.flag, text)]
        )
    return [row.flag, str(value).lower() if isinstance(value, bool) else str(value)]


def _quote(word: str) -> str:
    """Quote a word for a shell. The shell still replaces variables in the quoted word."""
    if not _SHELL_VARIABLE.search(word):
        return shlex.quote(word)
    if re.fullmatch(r"[\w@%+=:,./${}-]+", word):
        return word
    return '"' + re.sub(r'(["\\`])', r"\\\1", word) + '"'
