"""Control requests, which the core sends to a worker outside the steps.

No step is in flight while a worker executes a control request. A request that cannot be executed is
rejected with a reason and has no effect. Each kind of request requires a negotiated feature.
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
    """Base class of the control requests. The tag is the class name."""

    name: ClassVar[str]  # the name of the request in messages
    feature: ClassVar[str]  # the feature that must be negotiated for this kind of request


class LoadAdapter(ControlRecord, frozen=True):
    """Load a LoRA adapter. This is allowed while sequences are unfinished.

    The worker rejects the request in four cases: the number is in use, `Limits.max_adapters`
    adapters are already loaded, the rank exceeds `Limits.max_adapter_rank`, or the adapter does not
    fit the model.
    """

    name: ClassVar[str] = "adapter_load"
    feature: ClassVar[str] = "lora"

    number: int  # above 0; 0 is the base model
    # A folder in PEFT's format: `adapter_config.json`, and `adapter_model.safetensors` with pairs
    # of LoRA matrices.
    path: str


class UnloadAdapter(ControlRecord, frozen=True):
    """Unload an adapter. The number of the adapter can then be used again. The core sends this
    request only if no unfinished sequence uses the adapter.
    """

    name: ClassVar[str] = "adapter_unload"
    feature: ClassVar[str] = "lora"

    number: int


class Sleep(ControlRecord, frozen=True):
    """Release the device memory. The core sends this request only if no sequence is unfinished.

    The stored keys and values are lost, so the core empties its prefix cache. Until the worker
    executes `Wake`, it accepts no step and `Worker.health` is not ok.
    """

    name: ClassVar[str] = "sleep"
    feature: ClassVar[str] = "sleep"


class Wake(ControlRecord, frozen=True):
    """End the effect of `Sleep`. The negotiated limits apply again."""

    name: ClassVar[str] = "wake"
    feature: ClassVar[str] = "sleep"


class ExportBlocks(ControlRecord, frozen=True):
    """Write the content of blocks, in every cache group, to a file in the backend's own format.

    The request also requires the feature `prefix_cache`.
    """

    name: ClassVar[str] = "kv_export"
    feature: ClassVar[str] = "kv_export"

    blocks: tuple[int, ...]
    path: str  # a file below `EngineConfig.cache_dir`


class ImportBlocks(ControlRecord, frozen=True):
    """Fill blocks with the exact content of a file that `ExportBlocks` wrote.

    The number of `blocks` must equal the number of exported blocks. The worker rejects a file that
    was written with a different model, different negotiated limits or a different number of blocks.
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
"""Maps the name of a control request to the feature that must be negotiated for it."""


class ControlResult(Record, frozen=True):
    """The reply to a control request."""

    ok: bool
    message: str = ""  # the reason for a rejection
    values: dict[str, str] = {}
