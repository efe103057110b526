"""Reads the commands that run a container: `docker run`, `podman run`, `nerdctl run`, `srun` with a
container image, `apptainer`, `singularity` and `gcloud run deploy`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from tgi.cli.migration.container_flags import (
    GLOBAL_FLAGS_WITH_VALUE,
    LOST_FLAGS,
    read_flags,
)
from tgi.cli.migration.container_values import (
    read_devices,
    read_mount_flag,
    read_port,
    read_volume,
    split_variable,
)
from tgi.cli.migration.data import (
    APPTAINER_DEVICE_FLAGS,
    APPTAINER_SWITCHES,
    DEVICE_PROGRAM,
    DEVICE_RUNTIME,
)
from tgi.cli.migration.entrypoint import launch_in_container
from tgi.cli.migration.images import image_facts
from tgi.cli.migration.launch import Container, Devices, Launch
from tgi.cli.migration.words import Word, variable
from tgi.config import UsageError

__all__ = ["CONTAINER_PROGRAMS", "env_file_note", "read_container_command"]


def read_container_command(
    program: str, words: Sequence[Word], shell_variables: Mapping[str, Word]
) -> Launch | None:
    """Read the command of a container program. `words` are the words after the program. Returns
    None if the command runs no container.
    """
    return CONTAINER_PROGRAMS[program](program, words, shell_variables)


def _docker(
    program: str, words: Sequence[Word], shell_variables: Mapping[str, Word]
) -> Launch | None:
    rest = list(words)
    while rest and rest[0].starts_with("-"):
        flag = rest.pop(0)
        if flag.text in GLOBAL_FLAGS_WITH_VALUE and rest:
            rest.pop(0)
    if rest and rest[0].text == "container":
        rest.pop(0)
    if not rest or rest[0].text not in ("run", "create"):
        return None
    return _run(program, rest[1:], shell_variables)


def _run(program: str, words: Sequence[Word], shell_variables: Mapping[str, Word]) -> Launch:
    flags, rest, unknown = _flags_before_image(words, program)
    if not rest:
        raise UsageError(
            "error: the command contains no image.", "Give the whole `docker run` command."
        )
    image, *command = rest
    values = _by_name(flags)
    variables = _variables(values.get("--env", ()), shell_variables)
    mounts = [
        *map(read_volume, values.get("--volume", ())),
        *map(read_mount_flag, values.get("--mount", ())),
    ]
    networks = [*values.get("--network", ()), *values.get("--net", ())]
    gpus = _selected_gpus(program, values, shell_variables)
    container = Container(
        image,
        tuple(port for word in values.get("--publish", ()) for port in read_port(word)),
        tuple(mount for mount in mounts if mount is not None),
        any(network.text == "host" for network in networks),
        read_devices(gpus, values.get("--device", ())) or _all_devices(values),
        _entrypoint(values),
        tuple(dict.fromkeys(name for name, _ in flags if name in LOST_FLAGS)),
    )
    notes = [
        f"`{word.text}` before the image is not converted, because its flags are unknown."
        for word in unknown
    ]
    return launch_in_container(container, command, variables, [*notes, *_notes(values)])


def _flags_before_image(
    words: Sequence[Word], program: str
) -> tuple[list[tuple[str, Word]], list[Word], list[Word]]:
    """Return the flags before the image, the words from the image on, and the variables before the
    image, which contain more flags.
    """
    flags, rest = read_flags(words, program)
    unknown: list[Word] = []
    while len(rest) > 1 and _is_variable(rest[0]) and any(map(_is_image, rest[1:])):
        unknown.append(rest[0])
        more, rest = read_flags(rest[1:], program)
        flags += more
    return flags, rest, unknown


def _is_variable(word: Word) -> bool:
    return len(word.atoms) == len(word.expansions) == 1 and not _is_image(word)


def _is_image(word: Word) -> bool:
    is_path = word.starts_with("/") or word.starts_with(".") or word.starts_with("-")
    return not is_path and image_facts(word).is_known


def _by_name(flags: Sequence[tuple[str, Word]]) -> dict[str, list[Word]]:
    values: dict[str, list[Word]] = {}
    for name, value in flags:
        values.setdefault(name, []).append(value)
    return values


def _variables(words: Sequence[Word], shell_variables: Mapping[str, Word]) -> dict[str, Word]:
    variables = {}
    for word in words:
        name, value = split_variable(word)
        variables[name] = shell_variables.get(name, variable(name)) if value is None else value
    return variables


def _selected_gpus(
    program: str, values: Mapping[str, list[Word]], shell_variables: Mapping[str, Word]
) -> list[Word]:
    gpus = list(values.get("--gpus", ()))
    if program == DEVICE_PROGRAM and not gpus:
        chosen = shell_variables.get("NV_GPU")
        gpus.append(Word.of("all") if chosen is None else Word.of("device=") + chosen)
    return gpus


def _all_devices(values: Mapping[str, list[Word]]) -> Devices | None:
    is_visible = any(word.literal == DEVICE_RUNTIME for word in values.get("--runtime", ()))
    return Devices() if is_visible else None


def _entrypoint(values: Mapping[str, list[Word]]) -> tuple[Word, ...] | None:
    words = values.get("--entrypoint")
    return None if words is None else (words[-1],) if words[-1] else ()


def _notes(values: Mapping[str, list[Word]]) -> list[str]:
    notes = [env_file_note(word.shell()) for word in values.get("--env-file", ())]
    files = [word for word in values.get("--device", ()) if word.starts_with("/dev/")]
    if files:
        names = ", ".join(f"`{word.text}`" for word in files)
        notes.append(
            f"The device files {names} are not needed. `tgi backends` lists the visible devices."
        )
    for word in values.get("--gpus", ()):
        if word.literal == "all":
            notes.append("`--gpus all` is not needed. `tgi backends` lists the visible devices.")
            continue
        if word.expansions and "device=" not in word.text:
            notes.append(
                f"`--gpus {word.text}` is not converted, because its value is not in the command."
            )
    return notes


def env_file_note(name: str) -> str:
    """Return the sentence about a file with variables that was not read."""
    path = name if "/" in name else f"./{name}"
    return (
        f"The variables in `{name}` were not read. Add the required variables, or load the file"
        f" first: `set -a; . {path}; set +a`."
    )


def _srun(
    program: str, words: Sequence[Word], shell_variables: Mapping[str, Word]
) -> Launch | None:
    """Read `srun --container-image=IMAGE … COMMAND`, a flag of the Slurm plugin pyxis. A flag
    without `=` that is not in `APPTAINER_SWITCHES` takes the next word as its value.
    """
    flags, command = _leading_flags(words, 1 << 30)
    image = flags.get("--container-image")
    if image is None or not command:
        return None
    names = flags.get("--container-env", Word()).split(",")
    variables = {
        name.text: shell_variables.get(name.text, variable(name.text)) for name in names if name
    }
    mounts = map(read_volume, flags.get("--container-mounts", Word()).split(","))
    container = Container(
        image,
        mounts=tuple(mount for mount in mounts if mount is not None),
        has_host_network=True,
        devices=_scheduled_devices(flags.get(name) for name in _SLURM_DEVICES),
    )
    notes = ["The other options of `srun` are not converted. Write `srun` before the command."]
    return launch_in_container(container, command, variables, notes)


_SLURM_DEVICES = ("--gpus", "-G", "--gpus-per-node", "--gpus-per-task", "--gres")


def _scheduled_devices(values: Iterable[Word | None]) -> Devices | None:
    """Return the number of devices in the first value, for example `8`, `a100:8` or `gpu:8`."""
    for value in values:
        count = "" if value is None else value.split(":")[-1].text
        if value is not None:
            return Devices(count=int(count) if count.isdecimal() else None, is_scheduled=True)
    return None


def _apptainer(
    program: str, words: Sequence[Word], shell_variables: Mapping[str, Word]
) -> Launch | None:
    if not words or words[0].text not in ("run", "exec"):
        return None
    flags, rest = _leading_flags(words[1:], 1)
    if not rest:
        return None
    image, *command = rest
    variables = dict(shell_variables)
    for word in flags.get("--env", Word()).split(","):
        name, value = split_variable(word)
        if value is not None:
            variables[name] = value
    binds = flags.get("--bind") or flags.get("-B") or Word()
    mounts = tuple(m for m in map(read_volume, binds.split(",")) if m is not None)
    container = Container(
        image,
        mounts=mounts,
        has_host_network=True,
        devices=Devices() if flags.keys() & APPTAINER_DEVICE_FLAGS else None,
    )
    return launch_in_container(container, command, variables, [])


def _leading_flags(words: Sequence[Word], values: int) -> tuple[dict[str, Word], list[Word]]:
    """Return the leading flags and the remaining words. A flag outside of
    `APPTAINER_SWITCHES` without `=` takes the next word as its value.
    """
    flags: dict[str, Word] = {}
    rest = list(words)
    while rest and rest[0].starts_with("-"):
        name, has_value, value = rest.pop(0).partition("=")
        if not has_value and name.text not in APPTAINER_SWITCHES and rest:
            value = rest.pop(0)
        if name.text in flags:
            value = flags[name.text] + Word.of(",") + value
        flags[name.text] = value
    return flags, rest


def _gcloud(
    program: str, words: Sequence[Word], shell_variables: Mapping[str, Word]
) -> Launch | None:
    """Read `gcloud run deploy`. The platform sets `PORT` to the port of the service."""
    texts = [word.text for word in words]
    if "run" not in texts or "deploy" not in texts:
        return None
    flags: dict[str, Word] = {}
    rest = list(words[texts.index("deploy") + 1 :])
    while rest:
        name, has_value, value = rest.pop(0).partition("=")
        if name.starts_with("--"):
            takes_next = not has_value and rest and not rest[0].starts_with("-")
            flags[name.text] = rest.pop(0) if takes_next else value
    if "--image" not in flags:
        return None
    variables = {}
    for flag in ("--set-env-vars", "--update-env-vars"):
        for word in flags.get(flag, Word()).split(","):
            key, value_or_none = split_variable(word)
            if value_or_none is not None:
                variables[key] = value_or_none
    port = flags.get("--port", Word.of("8080"))
    command = [word for word in flags.get("--args", Word()).split(",") if word]
    entry = flags.get("--command")
    container = Container(
        flags["--image"],
        has_host_network=True,
        devices=_scheduled_devices([flags.get("--gpu")]),
        entrypoint=None if entry is None else tuple(entry.split(",")),
        lost=tuple(name for name in ("--cpu", "--memory", "--max-instances") if name in flags),
        default_port=port,
    )
    notes = ["The variables of `--set-secrets` were not read."] if "--set-secrets" in flags else []
    return launch_in_container(container, command, variables, notes)


CONTAINER_PROGRAMS: Mapping[
    str, Callable[[str, Sequence[Word], Mapping[str, Word]], Launch | None]
] = {
    "docker": _docker,
    "podman": _docker,
    "nerdctl": _docker,
    DEVICE_PROGRAM: _docker,
    "srun": _srun,
    "apptainer": _apptainer,
    "singularity": _apptainer,
    "gcloud": _gcloud,
}
