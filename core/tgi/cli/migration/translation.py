"""Converts a command that starts TGI 3 into a `tgi serve` command."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from tgi.cli.migration.backend_questions import hardware_sentence, rejections
from tgi.cli.migration.data import (
    CONTAINER_DEVICES_VARIABLE,
    DEVICE_COUNT_VARIABLES,
    KEPT_VARIABLES,
    REPLACED_VARIABLE_PREFIXES,
    REPLACED_VARIABLES,
    SAGEMAKER_PORT,
    SAGEMAKER_VARIABLES,
)
from tgi.cli.migration.images import ImageFacts, image_facts
from tgi.cli.migration.launch import Container, Launch
from tgi.cli.migration.launcher_options import LauncherOptions, option_words, read_options
from tgi.cli.migration.outside import convert_paths, convert_port, platform_port, select_devices
from tgi.cli.migration.words import Word
from tgi.config import OPTIONS, ServeOptions, UsageError, check_options, notes_on_options
from tgi.errors import ConfigError
from tgi.plugins import BackendRegistry

__all__ = ["Migration", "migrate"]

_DEFAULT_MODEL = "bigscience/bloom-560m"


@final
@dataclass(frozen=True)
class Migration:
    """The `tgi serve` command, the assignments that it needs, and one sentence per change."""

    command: str
    changes: tuple[str, ...]
    setup: tuple[str, ...] = ()

    @property
    def script(self) -> str:
        """The assignments and the command, one per line."""
        return "\n".join([*self.setup, self.command])


def migrate(launch: Launch, registry: BackendRegistry | None = None) -> Migration:
    """Convert one command that starts TGI 3. Raises `UsageError` if an option is invalid."""
    registry = registry or BackendRegistry()
    variables = dict(launch.variables)
    container = launch.container
    changes: list[str] = []
    facts = None if container is None else image_facts(container.image)
    is_sagemaker = _rename_platform_variables(launch, facts, variables, changes)
    if container is not None and facts is not None:
        changes += _image_changes(container, facts, registry)
    changes += launch.notes
    port = platform_port(variables)
    options = read_options(launch.arguments, variables)
    changes += options.notes
    assignments = {**options.variables, **_sort_variables(variables, changes)}
    overrides: dict[str, Word | None] = {} if port is None else {"port": port}
    if container is not None and facts is not None:
        port = port or options.first("port") or _default_port(container, facts, is_sagemaker)
        overrides |= convert_port(container, options, port, changes)
        overrides |= convert_paths(container, facts, options, assignments, changes)
    overrides |= _shards(container, variables, options, assignments, changes)
    changes += _changes_of(options, launch, overrides)
    _check(options.known, overrides)
    changes += _rejections(options.known, overrides, registry)
    if container is not None and container.lost:
        changes.append(_lost(container))
    words = [Word.of("tgi"), Word.of("serve"), *option_words(options, overrides)]
    parts = [f"{name}={value.shell_value()}" for name, value in assignments.items()]
    command = " ".join([*parts, *(word.shell() for word in words)])
    return Migration(command, tuple(dict.fromkeys(changes)), launch.setup)


def _rename_platform_variables(
    launch: Launch, facts: ImageFacts | None, variables: dict[str, Word], changes: list[str]
) -> bool:
    """Rename the variables of SageMaker. Returns whether the command is for a
    SageMaker image.
    """
    reads_variables = launch.is_sagemaker or (facts is not None and facts.platform == "sagemaker")
    if "HF_MODEL_ID" not in variables or "MODEL_ID" in variables:
        return reads_variables
    for theirs, ours in SAGEMAKER_VARIABLES.items():
        if theirs in variables:
            variables.setdefault(ours, variables.pop(theirs))
    changes.append(
        "The variables of SageMaker are converted to options. `tgi sagemaker` also accepts the"
        " variables."
    )
    if not reads_variables:
        changes.append(
            "The launcher of TGI 3 does not read `HF_MODEL_ID`. Only SageMaker's images read it."
        )
    return True


def _image_changes(container: Container, facts: ImageFacts, registry: BackendRegistry) -> list[str]:
    name = container.image.text
    replaced = f" It replaces the image `{name}`." if name else ""
    changes = [f"Run the command in an environment with tgi installed.{replaced}"]
    if facts.is_known:
        changes.append(hardware_sentence(facts.variant, registry))
    return changes


def _default_port(container: Container, facts: ImageFacts, is_sagemaker: bool) -> Word:
    if container.default_port is not None:
        return container.default_port
    return Word.of(str(SAGEMAKER_PORT if is_sagemaker else facts.port))


def _sort_variables(variables: Mapping[str, Word], changes: list[str]) -> dict[str, Word]:
    """Return the variables that tgi reads, and the unknown variables. Variables that set options
    and variables without effect are omitted.
    """
    of_options = {row.environment for row in OPTIONS if row.environment}
    known, unknown = {}, {}
    for name, value in variables.items():
        prefix = next((p for p in REPLACED_VARIABLE_PREFIXES if name.startswith(p)), None)
        if name in of_options or name == CONTAINER_DEVICES_VARIABLE:
            continue
        if name in REPLACED_VARIABLES:
            changes.append(f"`{name}` has no effect: {REPLACED_VARIABLES[name]}.")
        elif prefix is not None:
            changes.append(f"`{name}` has no effect: {REPLACED_VARIABLE_PREFIXES[prefix]}.")
        elif name in KEPT_VARIABLES:
            known[name] = value
        elif not _is_inherited(name, value):
            unknown[name] = value
            changes.append(f"`{name}` is not a variable of TGI. It is passed on unchanged.")
    return known | unknown


def _is_inherited(name: str, value: Word) -> bool:
    """Return whether the value is the variable of the same name, which tgi inherits anyway."""
    return len(value.atoms) == 1 and [each.name for each in value.expansions] == [name]


def _shards(
    container: Container | None,
    variables: Mapping[str, Word],
    options: LauncherOptions,
    assignments: dict[str, Word],
    changes: list[str],
) -> dict[str, Word | None]:
    """Return `--num-shard` if TGI 3 derived it from the number of visible devices. Adds the
    variable that selects the devices to `assignments`.
    """
    if container is not None:
        visible = select_devices(container, variables, assignments)
    else:
        visible = next((variables[n] for n in DEVICE_COUNT_VARIABLES if n in variables), None)
    is_given = "num_shard" in options.words or options.known.sharded is False
    if is_given or ("sharded" in options.words and options.first("sharded") is None):
        return {}
    count = _count(container, variables, visible)
    if count is None:
        changes.append(
            "TGI 3 split the model over all visible devices. The default of `--num-shard` is now 1."
        )
        return {}
    if count == 1:
        if options.known.sharded:
            changes.append("`--sharded true` also requires `--num-shard` with at least 2 devices.")
        return {}
    changes.append(
        f"TGI 3 split the model over the {count} visible devices, as `--num-shard {count}` does."
    )
    return {"num_shard": Word.of(str(count))}


def _count(
    container: Container | None, variables: Mapping[str, Word], visible: Word | None
) -> int | None:
    """Return the number of devices over which TGI 3 split the model, or None if it is unknown."""
    if visible is not None:
        return None if visible.expansions else len(visible.split(","))
    if container is None:
        return None
    if container.devices is not None:
        return container.devices.count
    value = variables.get(CONTAINER_DEVICES_VARIABLE)
    return None if value is not None and value.literal == "all" else 1


def _changes_of(
    options: LauncherOptions, launch: Launch, overrides: Mapping[str, Word | None]
) -> list[str]:
    changes = list(notes_on_options(options.known))
    model = overrides.get("model_id") or options.first("model_id")
    if model is None and not options.passed:
        changes.append(f"The default model is the demo model. In TGI 3 it was `{_DEFAULT_MODEL}`.")
    if model is not None:
        changes += _changes_of_model(model, launch)
    if "max_input_length" in options.words:
        changes.append("`--max-input-length` is now called `--max-input-tokens`.")
    if "*" in options.known.cors_allow_origin:
        changes.append("`--cors-allow-origin '*'` allows all origins. TGI 3 failed at startup.")
    return changes


def _changes_of_model(model: Word, launch: Launch) -> list[str]:
    names = [e.name for e in model.expansions if e.name and e.name not in launch.assigned]
    if model.literals or not names:
        if model.literal is not None and model.starts_with("$"):
            return [
                f"TGI 3 received the text `{model.text}` as the model, because no shell expanded"
                " the variable. Replace the text with the name of the model."
            ]
        return []
    if model.expansions[0].quoted:
        return [f"Set `${names[0]}` before you run the command."]
    return [f"Set `${names[0]}` first. Without this variable, the command serves the demo model."]


def _with_overrides(known: ServeOptions, overrides: Mapping[str, Word | None]) -> ServeOptions:
    shards = overrides.get("num_shard")
    return dataclasses.replace(known, num_shard=int(shards.text)) if shards else known


def _check(known: ServeOptions, overrides: Mapping[str, Word | None]) -> None:
    """Raise `UsageError` if TGI 3 and `tgi serve` reject the options."""
    options = _with_overrides(known, overrides)
    if options.sharded and options.num_shard is None:
        options = dataclasses.replace(options, sharded=None)
    try:
        check_options(options)
    except ConfigError as error:
        raise UsageError(
            f"error: `tgi serve` rejects these options: {str(error).rstrip('.')}.",
            "Correct the options first.",
        ) from error


def _rejections(
    known: ServeOptions, overrides: Mapping[str, Word | None], registry: BackendRegistry
) -> list[str]:
    return rejections(_with_overrides(known, overrides), registry)


def _lost(container: Container) -> str:
    names = ", ".join(f"`{name}`" for name in container.lost)
    return (
        f"These settings of the container are not converted: {names}. A supervisor such as systemd"
        " can provide them."
    )
