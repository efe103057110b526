"""Finds the TPU chips of this machine through the operating system, without a driver or a
framework.

A chip is a PCI device with Google's vendor id. The driver creates `/dev/accel<N>` (v4 and older) or
`/dev/vfio/<N>` (newer). The presence of `libtpu` is not used, because `libtpu` can be installed on
any machine.
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
    """One chip. JAX treats some chips as two devices that share its memory."""

    generation: str
    memory_bytes: int
    num_devices: int = 1


_CHIPS: Mapping[int, Chip] = MappingProxyType(
    {
        0x0027: Chip("v2/v3", 0, 2),  # two generations have the same id but different memory sizes
        0x005E: Chip("v4", 32 * _GIB),
        0x0062: Chip("v5p", 95 * _GIB),
        0x0063: Chip("v5e", 16 * _GIB),
        0x006F: Chip("v6e", 32 * _GIB),
        0x0076: Chip("v7", 192 * _GIB, 2),
    }
)
"""The chips by PCI device id."""


def find_chips(pci_devices: Path = _PCI_DEVICES) -> tuple[Chip, ...]:
    """Return the chips on the PCI bus, in bus order. The result is empty if there are no chips or
    the bus cannot be read.
    """
    if not pci_devices.is_dir():
        return ()
    ids = [
        (_hex(device / "vendor"), _hex(device / "device"))
        for device in sorted(pci_devices.iterdir())
    ]
    return tuple(_CHIPS[device] for vendor, device in ids if vendor == _VENDOR and device in _CHIPS)


def has_device_nodes(dev: Path = _DEV) -> bool:
    """Whether this process can see device nodes of chips. A container needs access to these device
    nodes.
    """
    numbered = [node for pattern in ("accel[0-9]*", "vfio/[0-9]*") for node in dev.glob(pattern)]
    return bool(numbered)


def _hex(path: Path) -> int:
    """Return the hexadecimal number in a file of sysfs, or -1 if the file cannot be read."""
    try:
        return int(path.read_text().strip(), 16)
    except (OSError, ValueError):
        return -1
