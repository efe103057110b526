"""Formats the log lines of the HTTP process as plain text, or as JSON with `--json-output`. Prompts
and generated texts are never logged.
"""

from __future__ import annotations

import json
import logging
import sys
import time

__all__ = ["configure_logging"]

_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL,
}


def configure_logging(level: str, json_output: bool) -> None:
    """Write log lines to standard error.

    `level` is TGI's `LOG_LEVEL`. If it is a list of filters, the first entry without a target is
    used.
    """
    named = next((part for part in level.split(",") if part in _LEVELS), "info")
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter(
        "%(asctime)s  %(levelname)s %(name)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%SZ"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    if json_output:
        handler.format = _format_json  # type: ignore[method-assign]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[named])
    for verbose in ("uvicorn.error", "uvicorn.access", "httpx", "httpx2", "filelock", "asyncio"):
        logging.getLogger(verbose).setLevel(logging.WARNING)


def _format_json(record: logging.LogRecord) -> str:
    """Return a log line as a JSON object without nesting, with the fields of TGI's router."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    fields = {
        "timestamp": f"{moment}.{int(record.msecs) * 1000:06d}Z",
        "level": record.levelname,
        "message": record.getMessage(),
        "target": record.name,
    }
    if record.exc_info:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
