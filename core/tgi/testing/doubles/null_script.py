"""The script of the null backend: a JSON file with the tokens and the failures of its worker."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from tgi.backend import BackendError

__all__ = ["NullFailure", "NullJumps", "NullScript", "read_script"]


class NullFailure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A failure of a sequence whose prompt contains `token`. The failure occurs when the sequence
    has `after` output tokens from this worker.

    row      `RowError` for that sequence alone
    step     the whole step fails, and the worker is intact
    broken   the whole step fails and may not be tried again
    raise    an exception that the backend interface does not define
    exit     the engine process ends with status 3
    memory   the engine process takes memory until the system kills it
    """

    token: int
    kind: Literal["row", "step", "broken", "raise", "exit", "memory"]
    after: int = 0
    times: int = 1


class NullJumps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Random events, drawn from the seed and the step. The events do not change the tokens of a
    sequence if the core is correct.
    """

    seed: int = 0
    row_failures: float = 0.0  # probability that a row that samples fails
    step_failures: float = 0.0  # probability that a step fails as a whole and may be tried again
    # Probability that a step raises an exception that the backend interface does not define. The
    # exception ends the engine process.
    crashes: float = 0.0
    max_seconds: float = 0.0  # maximum random duration of a step


class NullScript(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The behaviour of the null worker. If `tokens` is empty, output token i is prompt token i. The
    prompt is repeated after its last token.

    A row returns the maximum number of tokens. If `jumps` is set, a row returns a random number of
    tokens.

    A row with a grammar mask ignores `tokens` and returns a random token that the mask allows. The
    token depends only on the draw of the row and the number of output tokens.
    """

    tokens: tuple[int, ...] = ()
    failures: tuple[NullFailure, ...] = ()
    start_failure: str = ""
    load_seconds: float = 0.0  # duration of loading, with progress reports
    step_seconds: float = 0.0
    compile_seconds: float = 0.0  # duration of the reported compilation in the first step
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
        "mask",
        "late_mask",
    )
    sampling: tuple[str, ...] = ("temperature", "top_k", "top_p", "top_n_tokens")
    sampling_caps: dict[str, float] = {}
    tokens_per_step: int = 1  # above 1 only with the feature `multi_token`
    jumps: NullJumps | None = None
    controls: tuple[str, ...] = ()  # names of the supported control requests
    control_seconds: float = 0.0  # duration of a control request


def read_script(path: str) -> NullScript:
    """Read the script in the file `path`, or return the default script if `path` is empty. Raises
    `BackendError` if the script is not valid.
    """
    if not path:
        return NullScript()
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=NullScript)
    except (OSError, msgspec.MsgspecError) as error:
        raise BackendError(f"The null script `{path}` cannot be read: {error}.") from error
