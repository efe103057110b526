"""Which TPU chips this machine has, read from the operating system: no driver, no framework.

A chip is a PCI device of Google's vendor id; its driver shows it as `/dev/accel<N>` (v4 and older)
or `/dev/vfio/<N>` (newer). That `libtpu` is installed says nothing: it installs anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import final

__all__ = ["Chip", "find_chips", "has_device_nodes"]

_VENDOR = 0x1AE0
_GIB = 1 << 30
_PCI_DEVICES = Path("/sys/bus/pci/devices")
_DEV = Path("/dev")


@final
@dataclass(frozen=True)
class Chip:
    """One chip. To JAX some are two devices, which share its memory."""

    generation: str
    memory_bytes: int
    num_devices: int = 1


_CHIPS: Mapping[int, Chip] = MappingProxyType(
    {
        0x0027: Chip("v2/v3", 0, 2),  # two generations under one id, of different memory
        0x005E: Chip("v4", 32 * _GIB),
        0x0062: Chip("v5p", 95 * _GIB),
        0x0063: Chip("v5e", 16 * _GIB),
        0x006F: Chip("v6e", 32 * _GIB),
        0x0076: Chip("v7", 192 * _GIB, 2),
    }
)
"""By PCI device id."""


def find_chips(pci_devices: Path = _PCI_DEVICES) -> tuple[Chip, ...]:
    """The chips on the PCI bus, in its order; empty where there are none or the system does not
    tell.
    """
    if not pci_devices.is_dir():
        return ()
    ids = [
        (_hex(device / "vendor"), _hex(device / "device"))
        for device in sorted(pci_devices.iterdir())
    ]
    return tuple(_CHIPS[device] for vendor, device in ids if vendor == _VENDOR and device in _CHIPS)


def has_device_nodes(dev: Path = _DEV) -> bool:
    """Whether a driver shows chips to this process; in a container they have to be passed on."""
    numbered = [node for pattern in ("accel[0-9]*", "vfio/[0-9]*") for node in dev.glob(pattern)]
    return bool(numbered)


def _hex(path: Path) -> int:
    """What a file of sysfs says; -1 where it cannot be read."""
    try:
        return int(path.read_text().strip(), 16)
    except (OSError, ValueError):
        return -1
