"""Checks the options before the model is loaded. The messages and their order are taken from
`launcher/src/main.rs` and `router/src/server.rs` of TGI 3.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

from tgi.config.options import OPTIONS, ServeOptions
from tgi.config.parser import UsageError
from tgi.errors import ConfigError

__all__ = ["bind_address", "check_options", "check_output_file", "notes_on_options", "num_shard_of"]


def num_shard_of(options: ServeOptions) -> int:
    """Return the number of devices over which the model is split (default: 1). Raises `ConfigError`
    if the options for sharding are invalid.
    """
    if options.sharded:
        if options.num_shard is None:
            raise ConfigError(
                "`sharded` is true but `num_shard` is not given.", "Give `--num-shard`."
            )
        if options.num_shard <= 1:
            raise ConfigError("`sharded` is true but `num_shard` <= 1")
    if options.num_shard is not None and options.num_shard < 1:
        raise ConfigError("`num_shard` cannot be < 1")
    return options.num_shard or 1


def check_options(options: ServeOptions) -> None:
    """Check the options and their combinations. Raises `ConfigError` for the first invalid one."""
    if num_shard_of(options) > 1 and options.quantize == "exl2":
        raise ConfigError("Sharding is currently not supported with `exl2` quantization")
    longest, old_longest = options.max_input_tokens, options.max_input_length
    if longest is not None and old_longest is not None:
        raise ConfigError(
            f"Both `max_input_tokens` ({longest}) and `max_input_length` ({old_longest}) are set."
            " Please define only `max_input_tokens` as `max_input_length is deprecated for naming"
            " consistency."
        )
    longest = old_longest if longest is None else longest
    total, cached = options.max_total_tokens, options.max_batch_total_tokens
    if longest is not None and total is not None and longest >= total:
        raise ConfigError(f"`max_input_tokens`({longest}) must be < `max_total_tokens`({total})")
    if options.validation_workers == 0:
        raise ConfigError("`validation_workers` must be > 0")
    if options.max_concurrent_requests == 0:
        raise ConfigError("`max_concurrent_requests` must be > 0")
    if options.max_batch_size == 0:
        raise ConfigError("`max_batch_size` must be > 0")
    if cached is not None and total is not None and total > cached:
        raise ConfigError(
            f"`max_total_tokens` must be <= `max_batch_total_tokens`. Given: {total} and {cached}"
        )
    prefill = options.max_batch_prefill_tokens
    if prefill is not None and cached is not None and prefill > cached:
        raise ConfigError(
            f"`max_batch_prefill_tokens` must be <= `max_batch_total_tokens`. Given: {prefill} and"
            f" {cached}"
        )
    if not 0 < options.cuda_memory_fraction <= 1:
        raise ConfigError(
            f"`cuda_memory_fraction` must be > 0 and <= 1. Given: {options.cuda_memory_fraction}"
        )
    if "*" in options.cors_allow_origin and len(options.cors_allow_origin) > 1:
        raise ConfigError(
            "`cors_allow_origin` contains both `*` and an origin.", "Remove one of them."
        )
    if options.api_key is not None and not options.api_key.strip():
        raise ConfigError(
            "`api_key` is empty, so every client would have the key.",
            "Give a key, or remove `--api-key` and the variable API_KEY.",
        )
    _check_precision(options)


def _check_precision(options: ServeOptions) -> None:
    if (
        options.dtype is None
        or options.quantize is None
        or options.quantize.startswith("bitsandbytes")
    ):
        return
    raise ConfigError(
        f"Only 1 can be set between `dtype` and `quantize`. Given: {options.dtype} and"
        f" {options.quantize}.",
        "Remove one of them.",
    )


def notes_on_options(options: ServeOptions) -> tuple[str, ...]:
    """Return one line for each option that has no effect and is set to a value other than its
    default.
    """
    return tuple(
        f"`{row.flag}` has no effect: {row.no_effect}."
        for row in OPTIONS
        if row.no_effect and getattr(options, row.name) != row.default
    )


def check_output_file(flag: str, path: str, suffix: str = "") -> None:
    """Check that a command can write its output to the file of an option, before it starts its
    work. Raises `UsageError`.
    """
    file = Path(path)
    if suffix and file.suffix not in ("", suffix):
        raise UsageError(
            f"error: invalid value '{path}' for '{flag}': the format of the file is {suffix[1:]}.",
            f"Give a name that ends with `{suffix}`.",
        )
    if file.is_dir():
        problem = "it is a folder"
    elif not file.parent.is_dir():
        problem = f"the folder `{file.parent}` does not exist"
    elif not os.access(file if file.exists() else file.parent, os.W_OK):
        problem = "there is no permission to write it"
    else:
        return
    raise UsageError(
        f"error: invalid value '{path}' for '{flag}': {problem}.",
        "Name a file that can be written.",
    )


def bind_address(options: ServeOptions) -> tuple[str, str]:
    """Return the IP address to listen on. The second value is a log line if the given host is not
    an IP address, else an empty string.

    As in TGI, host names are not resolved. For a host name the address is 0.0.0.0.
    """
    try:
        return str(ipaddress.ip_address(options.hostname)), ""
    except ValueError:
        return "0.0.0.0", "Invalid hostname, defaulting to 0.0.0.0"  # noqa: S104 - TGI's default
