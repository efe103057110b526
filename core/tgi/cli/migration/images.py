"""Finds the platform, the version, the hardware and the model folder of an image of TGI."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import final

from tgi.cli.migration.data import (
    FORMER_MODEL_CACHE_VARIABLE,
    HUB_CACHE_VERSION,
    IMAGE_NAMES,
    IMAGE_PORT,
    IMAGE_VARIANTS,
    OWN_VERSIONS,
    SAGEMAKER_PORT,
    ImageVariant,
)
from tgi.cli.migration.words import Word

__all__ = ["ImageFacts", "image_facts"]

_LATEST = (99, 0)
_VERSIONS = (r"tgi(\d+)\.(\d+)", r"\.(\d+)-(\d+)\.ubuntu", r"^v?(\d+)(?:\.(\d+))?(?![\d.]*[a-z_])")
_FILE_VERSION = re.compile(r"_v?(\d+)\.(\d+)(?:\.\d+)?[^/]*\.(?:sif|sqsh)$")


@final
@dataclass(frozen=True)
class ImageFacts:
    """The facts about an image. `version` is None if the tag does not contain it. `platform` is
    `sagemaker`, `vertex` or empty.
    """

    is_known: bool
    platform: str
    variant: ImageVariant
    version: tuple[int, int] | None

    @property
    def port(self) -> int:
        """The port of the server in the image."""
        return SAGEMAKER_PORT if self.platform == "sagemaker" else IMAGE_PORT

    @property
    def cache_variable(self) -> str:
        """The variable that the image sets to its folder for models."""
        if self.version is not None and self.version < HUB_CACHE_VERSION:
            return FORMER_MODEL_CACHE_VARIABLE
        return "HF_HOME"


def image_facts(image: Word) -> ImageFacts:
    """Return the facts about the image with this name."""
    text = image.text.lower()
    path = text.partition("@")[0]
    name, _, tag = path.rpartition(":") if ":" in path.rpartition("/")[2] else (path, "", "")
    known = next((part for part in IMAGE_NAMES if part in name), None)
    platform = IMAGE_NAMES.get(known or "", "")
    if "sagemaker" in tag:
        platform = "sagemaker"
    marks = (mark for mark in IMAGE_VARIANTS if mark and mark in f"{name.rpartition('/')[2]}:{tag}")
    return ImageFacts(
        known is not None,
        platform,
        IMAGE_VARIANTS[next(marks, "")],
        _version(image, name, tag, platform),
    )


def _version(image: Word, name: str, tag: str, platform: str) -> tuple[int, int] | None:
    if (match := _FILE_VERSION.search(name)) is not None:
        return int(match[1]), int(match[2])
    if any(part in name for part in OWN_VERSIONS):
        return _LATEST
    if image.expansions:
        return None
    if platform == "" and (not tag or tag.startswith("latest")):
        return None if name.endswith((".sif", ".sqsh")) else _LATEST
    for pattern in _VERSIONS:
        if (match := re.search(pattern, tag or name)) is not None:
            return int(match[1]), int(match[2] or 99)
    return None
