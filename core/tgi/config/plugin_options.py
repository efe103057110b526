"""Reads the options of a backend from the flags `--<backend>-<name>` and the variables
`<BACKEND>_<NAME>`. The options are checked after the backend has been selected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from tgi.config.parser import UsageError

__all__ = ["PluginOption", "read_plugin_options"]


@final
@dataclass(frozen=True)
class PluginOption:
    """An option that a backend declares."""

    name: str
    default: str = ""
    choices: tuple[str, ...] = ()


def read_plugin_options(
    backend: str,
    options: Sequence[PluginOption],
    values_by_flag: Mapping[str, str],
    environment: Mapping[str, str],
) -> dict[str, str]:
    """Return the values of the backend's options by name. Raises `UsageError` if the backend has no
    such flag, or if a value is not among the choices.
    """
    flags = {f"--{backend}-{option.name}": option for option in options}
    for flag in values_by_flag:
        if flag not in flags:
            known = ", ".join(flags) or "none"
            raise UsageError(
                f"error: unexpected argument '{flag}' for the backend `{backend}`.",
                f"The options of this backend are: {known}.",
            )
    values: dict[str, str] = {}
    for flag, option in flags.items():
        variable = flag.lstrip("-").replace("-", "_").upper()
        value = values_by_flag.get(flag, environment.get(variable, option.default))
        if option.choices and value not in option.choices:
            raise UsageError(
                f"error: invalid value '{value}' for '{flag}'; possible values:"
                f" {', '.join(option.choices)}."
            )
        values[option.name] = value
    return values
