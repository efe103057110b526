"""Converts the port, the paths and the devices of a container to those of the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tgi.cli.migration.data import (
    CONTAINER_DEVICES_VARIABLE,
    FORMER_MODEL_CACHE_VARIABLE,
    IMAGE_PORT,
    MODEL_CACHE,
    PATH_VARIABLES,
    PLATFORM_PORT_VARIABLE,
    SELECTED_DEVICES_VARIABLE,
)
from tgi.cli.migration.images import ImageFacts
from tgi.cli.migration.launch import Container, Mount
from tgi.cli.migration.launcher_options import LauncherOptions
from tgi.cli.migration.words import Word

__all__ = ["convert_paths", "convert_port", "platform_port", "select_devices"]

_PATH_OPTIONS = (
    "model_id",
    "tokenizer_config_path",
    "huggingface_hub_cache",
    "weights_cache_override",
)
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the path in the container
_FIRST_FREE_PORT = 1024
"""Linux allows ports below this one only to privileged users."""


def convert_port(
    container: Container, options: LauncherOptions, inside: Word, changes: list[str]
) -> dict[str, Word | None]:
    """Return the options `port` and `hostname` on the host. `inside` is the port of
    the server in the container.
    """
    overrides: dict[str, Word | None] = {"port": inside}
    published = next((p for p in container.ports if p.inside.text == inside.text), None)
    if published is not None and published.outside:
        overrides["port"] = published.outside.quoted()
        if published.address:
            overrides["hostname"] = published.address.quoted()
    elif published is not None:
        overrides["port"] = None
        changes.append(
            f"The container engine selects the published port for {inside.text}. Choose a port with"
            " `--port`."
        )
    elif not container.has_host_network and not container.has_own_address:
        others = ", ".join(port.inside.text for port in container.ports)
        also = f" (published: {others})" if others else ""
        changes.append(
            f"The container publishes no port for {inside.text}{also}. Choose a port with `--port`."
        )
        if inside.text == str(IMAGE_PORT):
            overrides["port"] = None
    _note_low_port(overrides["port"], changes)
    return overrides


def _note_low_port(port: Word | None, changes: list[str]) -> None:
    text = "" if port is None else port.literal or ""
    if text.isdecimal() and int(text) < _FIRST_FREE_PORT:
        changes.append(
            f"Port {text} is below {_FIRST_FREE_PORT}, so an unprivileged process cannot use it."
            " Choose another port with `--port`, or allow the port."
        )


def convert_paths(
    container: Container,
    facts: ImageFacts,
    options: LauncherOptions,
    assignments: dict[str, Word],
    changes: list[str],
) -> dict[str, Word | None]:
    """Return the options whose value is a path. Updates the paths in `assignments`."""
    overrides = _path_options(container, options, changes)
    changes += _unused_mounts(container, [*options.words.values()], assignments)
    for name in PATH_VARIABLES:
        if name in assignments:
            _path_variable(container, name, assignments, changes)
    has_own_cache = "HF_HOME" in assignments or "huggingface_hub_cache" in options.words
    if facts.platform != "sagemaker" and not has_own_cache and "HF_HUB_CACHE" not in assignments:
        overrides |= _model_cache(container, facts, assignments, changes)
    return overrides


def _unused_mounts(
    container: Container, values: Sequence[Sequence[Word]], assignments: Mapping[str, Word]
) -> list[str]:
    """Return a sentence about the mounts that no path of the command uses."""
    paths = [*(word for words in values for word in words), *assignments.values()]
    paths.append(Word.of(MODEL_CACHE))
    used = [_outside(container.mounts, path)[0] for path in paths]
    rest = [m for m in container.mounts if m not in used and m.target.text != _SHARED_MEMORY]
    if not rest:
        return []
    names = ", ".join(f"`{m.volume or m.source.text}` at `{m.target.text}`" for m in rest)
    return [f"These mounts are not converted, because no option names them: {names}."]


def _path_options(
    container: Container, options: LauncherOptions, changes: list[str]
) -> dict[str, Word | None]:
    overrides: dict[str, Word | None] = {}
    for name in _PATH_OPTIONS:
        value = options.first(name)
        if value is None or not _is_absolute(value, container.mounts):
            continue
        mount, outside = _outside(container.mounts, value)
        if outside is not None:
            overrides[name] = outside
        elif mount is not None:
            changes.append(_volume_note(value.text, mount))
        else:
            changes.append(
                f"`{value.text}` is a path inside the container. Replace it with the path on the"
                " host."
            )
    return overrides


def _path_variable(
    container: Container, name: str, assignments: dict[str, Word], changes: list[str]
) -> None:
    value = assignments[name]
    mount, outside = _outside(container.mounts, value)
    if outside is not None:
        assignments[name] = outside
        return
    if _is_absolute(value, container.mounts):
        del assignments[name]
        changes.append(
            f"`{name}` is left out, because `{value.text}` is a path inside the container"
            + (f" on the volume `{mount.volume}`." if mount is not None else ".")
        )


def _model_cache(
    container: Container, facts: ImageFacts, assignments: dict[str, Word], changes: list[str]
) -> dict[str, Word | None]:
    """Return the folder of the models, which the image sets."""
    mount, outside = _outside(container.mounts, Word.of(MODEL_CACHE))
    if outside is None:
        if mount is not None:
            changes.append(
                f"The models are on the volume `{mount.volume}`, so they are downloaded again."
                f" To keep them, copy the volume to a folder and set `HF_HOME` to this folder."
            )
        return {}
    if facts.version is None:
        changes.append(
            "The version of the image is not in its name. If it is below 2.3.0, replace `HF_HOME=`"
            f" with `{FORMER_MODEL_CACHE_VARIABLE}=`, because the models are directly in the"
            " folder."
        )
    if facts.cache_variable == FORMER_MODEL_CACHE_VARIABLE:
        return {"huggingface_hub_cache": outside}
    assignments["HF_HOME"] = outside
    return {}


def _volume_note(path: str, mount: Mount) -> str:
    return (
        f"`{path}` is on the volume `{mount.volume}`. Copy the files to a folder, and use the path"
        " of this folder."
    )


def _is_absolute(value: Word, mounts: Sequence[Mount]) -> bool:
    if value.starts_with("/"):
        return True
    return any(value.without_prefix(mount.target) is not None for mount in mounts)


def _outside(mounts: Sequence[Mount], path: Word) -> tuple[Mount | None, Word | None]:
    """Return the mount of a path inside of the container, and the path on the host. The mount with
    the longest target applies. A path on a volume has no path on the host.
    """
    best: tuple[Mount, Word] | None = None
    for mount in mounts:
        rest = path.without_prefix(mount.target)
        if rest is None or (rest and not rest.starts_with("/") and mount.target.text != "/"):
            continue
        if best is None or len(mount.target.atoms) > len(best[0].target.atoms):
            best = mount, rest
    if best is None:
        return None, None
    mount, rest = best
    return (mount, None) if mount.volume else (mount, mount.source + rest)


def select_devices(
    container: Container, variables: Mapping[str, Word], assignments: dict[str, Word]
) -> Word | None:
    """Add the variable that selects the devices of the container to `assignments`. Returns the
    selected devices, or None if all devices are visible.
    """
    visible = None if container.devices is None else container.devices.visible
    if visible is None:
        value = variables.get(CONTAINER_DEVICES_VARIABLE)
        visible = None if value is None or value.literal in ("all", "void", "") else value
    inner = assignments.get(SELECTED_DEVICES_VARIABLE)
    if visible is None:
        return inner
    if inner is not None:
        visible = _of_the_visible(inner, visible)
    assignments[SELECTED_DEVICES_VARIABLE] = visible
    return visible


def _of_the_visible(inner: Word, visible: Word) -> Word:
    """Return the devices with the indices `inner` among the devices that the container sees."""
    ids = visible.split(",")
    indices = inner.split(",")
    if visible.expansions or not all((i.literal or "").isdecimal() for i in indices):
        return inner
    chosen = [ids[int(i.text)].text for i in indices if int(i.text) < len(ids)]
    return Word.of(",".join(chosen))


def platform_port(variables: dict[str, Word]) -> Word | None:
    """Remove the variable of the platform whose port takes precedence. Returns the port."""
    port = variables.pop(PLATFORM_PORT_VARIABLE, None)
    return port if port is not None and (port.expansions or port.text.isdecimal()) else None
