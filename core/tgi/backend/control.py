"""Control requests: what the core asks of a worker outside the steps.

No step is in flight while a worker carries one out. A request that cannot be carried out is refused
with a reason and has no effect. Each kind of request needs a negotiated feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from tgi.backend.records import Record

__all__ = [
    "CONTROLS",
    "Control",
    "ControlRecord",
    "ControlResult",
    "ExportBlocks",
    "ImportBlocks",
    "LoadAdapter",
    "Sleep",
    "UnloadAdapter",
    "Wake",
]


class ControlRecord(Record, frozen=True, tag=True):
    """Base of the control requests; the tag is the class name."""

    name: ClassVar[str]  # in messages
    feature: ClassVar[str]  # the negotiated feature that allows it


class LoadAdapter(ControlRecord, frozen=True):
    """Load a LoRA adapter. Sequences may be alive.

    Refused: a number that is in use, more than `Limits.max_adapters` adapters, a rank above
    `Limits.max_adapter_rank`, a folder that does not fit the model.
    """

    name: ClassVar[str] = "adapter_load"
    feature: ClassVar[str] = "lora"

    number: int  # above 0; 0 is the model alone
    # A folder in PEFT's format: `adapter_config.json`, and `adapter_model.safetensors` with pairs
    # of LoRA matrices.
    path: str


class UnloadAdapter(ControlRecord, frozen=True):
    """Unload an adapter, whose number is free then. No sequence with it is alive."""

    name: ClassVar[str] = "adapter_unload"
    feature: ClassVar[str] = "lora"

    number: int


class Sleep(ControlRecord, frozen=True):
    """Release the device memory. No sequence is alive. Keys and values are lost, so the core
    forgets its prefix cache. Until `Wake` no step is accepted and `Worker.health` is not ok.
    """

    name: ClassVar[str] = "sleep"
    feature: ClassVar[str] = "sleep"


class Wake(ControlRecord, frozen=True):
    """End a sleep: the negotiated limits hold again."""

    name: ClassVar[str] = "wake"
    feature: ClassVar[str] = "sleep"


class ExportBlocks(ControlRecord, frozen=True):
    """Write the content of blocks, in every cache group, to a file in the backend's own format.
    Only with `prefix_cache`.
    """

    name: ClassVar[str] = "kv_export"
    feature: ClassVar[str] = "kv_export"

    blocks: tuple[int, ...]
    path: str  # a file below `EngineConfig.cache_dir`


class ImportBlocks(ControlRecord, frozen=True):
    """Fill as many blocks as were exported from a file, bit by bit.

    Refused: a file of another model, of other negotiated limits, or of another number of blocks.
    """

    name: ClassVar[str] = "kv_import"
    feature: ClassVar[str] = "kv_export"

    blocks: tuple[int, ...]
    path: str


Control = LoadAdapter | UnloadAdapter | Sleep | Wake | ExportBlocks | ImportBlocks

CONTROLS: Mapping[str, str] = MappingProxyType(
    {
        kind.name: kind.feature
        for kind in (LoadAdapter, UnloadAdapter, Sleep, Wake, ExportBlocks, ImportBlocks)
    }
)
"""Name of a control request → the feature that allows it."""


class ControlResult(Record, frozen=True):
    """The reply to a control request."""

    ok: bool
    message: str = ""  # why it was refused
    values: dict[str, str] = {}
