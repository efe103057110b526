"""The record of one command that starts TGI 3, with its options and environment variables. Every
reader of a command or a file creates this record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from tgi.cli.migration.words import NOTHING, Word

__all__ = ["Container", "Devices", "Launch", "Mount", "PublishedPort"]


@final
@dataclass(frozen=True)
class PublishedPort:
    """The port of the host at which a port of a container is published. `outside` is empty if the
    container engine selects the port.
    """

    inside: Word
    outside: Word = NOTHING
    address: Word = NOTHING  # empty = all addresses


@final
@dataclass(frozen=True)
class Mount:
    """A path of the host that a container sees at another path. `volume` is the name of a volume of
    the container engine. A volume has no source.
    """

    target: Word
    source: Word = NOTHING
    volume: str = ""


@final
@dataclass(frozen=True)
class Devices:
    """The accelerators that a container sees: the ids in `ids`, the first `count` ones, or all if
    both are None. If `is_scheduled` is True, an orchestrator selects the `count` accelerators.
    """

    ids: Word | None = None
    count: int | None = None
    is_scheduled: bool = False

    @property
    def visible(self) -> Word | None:
        """The comma-separated ids of the devices, or None for all devices."""
        if self.ids is None and self.count is not None and not self.is_scheduled:
            return Word.of(",".join(map(str, range(self.count))))
        return self.ids


@final
@dataclass(frozen=True)
class Container:
    """The container in which the launcher runs. `lost` names the settings that have no counterpart
    outside of a container.
    """

    image: Word
    ports: tuple[PublishedPort, ...] = ()
    mounts: tuple[Mount, ...] = ()
    has_host_network: bool = False
    devices: Devices | None = None
    entrypoint: tuple[Word, ...] | None = None
    lost: tuple[str, ...] = ()
    default_port: Word | None = None  # the port of the platform; None = the port of the image
    # Whether `--hostname` and published ports do not apply, for example in Kubernetes.
    has_own_address: bool = False


@final
@dataclass(frozen=True)
class Launch:
    """The arguments and environment variables of the launcher. `container` is None if the launcher
    does not run in a container.

    `setup` contains the shell statements that the command needs, and `assigned` the names of the
    variables that these statements set. `notes` contains sentences about parts of the input that
    were not converted.
    """

    arguments: tuple[Word, ...]
    variables: Mapping[str, Word] = field(default_factory=dict)
    container: Container | None = None
    setup: tuple[str, ...] = ()
    assigned: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    is_sagemaker: bool = False
