"""Implements `tgi backends`, which lists the installed backends and their status on this host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from tgi.cli import new_backend
from tgi.config import UsageError
from tgi.plugins import BackendRegistry, Candidate

__all__ = ["BackendFacts", "OptionFacts", "backend_facts", "run"]

_HELP = """Usage: tgi backends [--json]
       tgi backends new NAME [FOLDER]

List the installed backends. For each backend, print its version, the version of the backend
interface for which it was built, and whether it can be used on this machine. If it cannot be used,
print the reason. Also print the options that backends add to `tgi serve`.

`new` creates a package with a backend, as a starting point for your own.

Options:
  --json  Print JSON."""


def run(arguments: Sequence[str]) -> int:
    """Print the table, or JSON with `--json`. `new` creates a package. Returns the exit code."""
    if arguments[:1] == ["new"]:
        return new_backend.run(arguments[1:])
    if any(word in ("-h", "--help") for word in arguments):
        print(_HELP)
        return 0
    unknown = [word for word in arguments if word != "--json"]
    if unknown:
        raise UsageError(
            f"error: unexpected argument '{unknown[0]}' found.",
            "The only option of `tgi backends` is `--json`.",
        )
    candidates = BackendRegistry().candidates()
    if arguments:
        print(
            msgspec.json.format(
                msgspec.json.encode([backend_facts(c) for c in candidates]), indent=2
            ).decode()
        )
    elif candidates:
        _print_table(candidates)
    else:
        print(
            "No backend is installed. Install one from a checkout: pip install -c constraints.txt"
            " torch==2.13.0 -e . -e backends/torch -e backends/cpu"
        )
    return 0


class OptionFacts(msgspec.Struct, frozen=True):
    """An option that a backend adds to `tgi serve`."""

    flag: str
    help: str
    default: str
    choices: tuple[str, ...]


class BackendFacts(msgspec.Struct, frozen=True):
    """One backend in the output of `--json`. `support`, `reasons` and `memory` describe the support
    for a model, if a model was given.
    """

    name: str
    package: str
    version: str
    api: str | None
    priority: int | None
    selectable: bool | None  # whether `--backend auto` may select it
    usable: bool
    status: str
    devices: tuple[Mapping[str, object], ...]  # fields of `DeviceInfo`
    options: tuple[OptionFacts, ...]
    support: str | None = None
    reasons: tuple[str, ...] = ()
    memory: tuple[Mapping[str, object], ...] = ()  # fields of `MemoryItem`


def backend_facts(candidate: Candidate) -> BackendFacts:
    """Return the facts about one candidate for the output."""
    info, probe, support = candidate.info, candidate.probe, candidate.support
    options = () if info is None else info.options
    return BackendFacts(
        name=candidate.name,
        package=candidate.package,
        version=candidate.version,
        api=None if info is None else ".".join(map(str, info.api)),
        priority=None if info is None else info.priority,
        selectable=None if info is None else info.selectable,
        usable=candidate.usable,
        status=candidate.status,
        devices=() if probe is None else tuple(map(msgspec.structs.asdict, probe.devices)),
        options=tuple(
            OptionFacts(f"--{candidate.name}-{o.name}", o.help, o.default, o.choices)
            for o in options
        ),
        support=None if support is None else support.status,
        reasons=() if support is None else support.reasons,
        memory=() if support is None else tuple(map(msgspec.structs.asdict, support.memory)),
    )


def _print_table(candidates: Sequence[Candidate]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("backend", "package", "version", "API", "devices", "status"):
        table.add_column(heading, overflow="fold")
    for candidate in candidates:
        info, probe = candidate.info, candidate.probe
        devices = "" if probe is None else ", ".join(device.label for device in probe.devices)
        api = "" if info is None else ".".join(map(str, info.api))
        table.add_row(
            candidate.name, candidate.package, candidate.version, api, devices, candidate.status
        )
    Console(markup=False, highlight=False).print(table)
    for candidate in candidates:
        for option in () if candidate.info is None else candidate.info.options:
            print(f"--{candidate.name}-{option.name}  {option.help}")
