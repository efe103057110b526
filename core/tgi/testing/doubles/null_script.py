"""The script of the null backend: the tokens and the failures of its worker, as a JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from tgi.backend import BackendError

__all__ = ["NullFailure", "NullJumps", "NullScript", "read_script"]


class NullFailure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fault that strikes when a sequence whose prompt holds `token` has `after` output tokens of
    this worker's own.

    row      `RowError` for that sequence alone
    step     the whole step fails, the worker is intact
    broken   the whole step fails and may not be tried again
    raise    an exception the seam does not know
    exit     the engine process ends with status 3
    """

    token: int
    kind: Literal["row", "step", "broken", "raise", "exit"]
    after: int = 0
    times: int = 1


class NullJumps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happens at random, told by the seed and by the step: a core that is right has the same
    tokens whatever it is.
    """

    seed: int = 0
    row_failures: float = 0.0  # chance that a row which samples fails
    step_failures: float = 0.0  # chance that a step fails as a whole and may be tried again
    crashes: float = (
        0.0  # chance that a step raises what the seam does not know, which ends the engine
    )
    max_seconds: float = 0.0  # a step takes any time up to this


class NullScript(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the null worker does. `tokens` empty = echo: output token i is prompt token i, round and
    round.

    A row brings as many tokens as it may; with `jumps`, any number of them.
    """

    tokens: tuple[int, ...] = ()
    failures: tuple[NullFailure, ...] = ()
    start_failure: str = ""
    step_seconds: float = 0.0
    compile_seconds: float = 0.0  # that the first step compiles, which is announced
    mode: Literal["paged", "slots"] = "paged"
    block_size: int = 16
    num_blocks: int = 4096
    max_total_tokens: int = 4096
    max_sequences: int = 256
    max_step_tokens: int = 4096
    mixed: bool = True
    chunked: bool = True
    depth: int = 1
    features: tuple[str, ...] = (
        "prefix_cache",
        "logprobs",
        "prompt_logprobs",
        "device_token",
        "deterministic",
    )
    sampling: tuple[str, ...] = ("temperature", "top_k", "top_p", "top_n_tokens")
    sampling_caps: dict[str, float] = {}
    tokens_per_step: int = 1  # above 1 with the feature `multi_token`
    jumps: NullJumps | None = None
    controls: tuple[str, ...] = ()  # names of the control requests that are carried out
    control_seconds: float = 0.0  # duration of a control request


def read_script(path: str) -> NullScript:
    """The script in the file `path`, the default script if it is empty. Raises `BackendError`."""
    if not path:
        return NullScript()
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=NullScript)
    except (OSError, msgspec.MsgspecError) as error:
        raise BackendError(f"The null script `{path}` cannot be read: {error}.") from error
