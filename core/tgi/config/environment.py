"""Environment variables that have no command line option."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

__all__ = ["Environment", "process_environment", "read_environment", "without_secrets"]

_MAX_PORT = 65535
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN")
_SECRETS = frozenset({"API_KEY", *_TOKENS})
_TRUE = frozenset({"1", "true", "yes", "on"})


@final
@dataclass(frozen=True)
class Environment:
    """Settings that TGI 3 reads from the environment only."""

    hf_token: str | None = None
    hf_hub_offline: bool = False
    compute_type: str | None = None
    log_level: str = "info"
    docker_label: str | None = None
    prefix_caching: bool = True
    cache_folder: str = ""  # for compiled programs
    # Vertex AI: additional paths of two routes, and a port that takes precedence over `--port`.
    aip_predict_route: str | None = None
    aip_health_route: str | None = None
    aip_http_port: int | None = None


def process_environment() -> Mapping[str, str]:
    """Return a copy of the environment of this process."""
    return dict(os.environ)


def without_secrets(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without the API key and the tokens of the hub. Child processes that need
    no secrets get these variables.
    """
    return {name: value for name, value in variables.items() if name not in _SECRETS}


def read_environment(variables: Mapping[str, str]) -> Environment:
    """Read the settings from `variables`."""
    token = next((variables[name] for name in _TOKENS if variables.get(name)), None)
    caches = variables.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - a string; the folder need not exist
    return Environment(
        hf_token=token,
        hf_hub_offline=variables.get("HF_HUB_OFFLINE", "").lower() in _TRUE,
        compute_type=variables.get("COMPUTE_TYPE") or None,
        log_level=variables.get("LOG_LEVEL", "info").lower(),
        docker_label=variables.get("DOCKER_LABEL") or None,
        prefix_caching=variables.get("PREFIX_CACHING", "1").lower() in _TRUE,
        cache_folder=f"{caches}/tgi",
        aip_predict_route=variables.get("AIP_PREDICT_ROUTE") or None,
        aip_health_route=variables.get("AIP_HEALTH_ROUTE") or None,
        aip_http_port=_port(variables.get("AIP_HTTP_PORT", "")),
    )


def _port(text: str) -> int | None:
    """Return the port number in `text`, or None. As in TGI, an invalid value has no effect."""
    return int(text) if text.isascii() and text.isdigit() and int(text) <= _MAX_PORT else None
