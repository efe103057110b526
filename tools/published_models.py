"""Reads the records of published models in `tests/core/architectures/published`.

A file contains the models of one `model_type`, as a list of objects:

* `model`: the id on the Hugging Face Hub, or null if the config of a published model is not known.
  In that case the config is small.
* `billions`: the published number of parameters in billions without the parameters for images, or
  null if the number is not compared.
* `config`: the keys of config.json that describe the text model. Factors of LongRoPE, one per
  frequency, are placeholders.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tgi.architectures import GenericSpec, ModelSpec, load_spec

__all__ = ["RECORDS", "PublishedModel", "published_models", "write_checkpoint"]

RECORDS = Path(__file__).parents[1] / "tests" / "core" / "architectures" / "published"


@final
@dataclass(frozen=True)
class PublishedModel:
    """A record with the spec of its config. `quantization_config` does not affect the spec."""

    name: str | None
    billions: float | None
    config: dict[str, Any]
    spec: ModelSpec | GenericSpec

    @property
    def model_type(self) -> str:
        """The `model_type` of the config."""
        return str(self.config["model_type"])

    @property
    def text_type(self) -> str:
        """The `model_type` of the text model. It equals `model_type` in a model without images."""
        return str(self.config.get("text_config", {}).get("model_type", self.model_type))

    @property
    def title(self) -> str:
        """The name in the tables of the page."""
        method = self.config.get("quantization_config", {}).get("quant_method")
        name = "small config" if self.name is None else f"`{self.name}`"
        return name if method is None else f"{name} ({method})"


def published_models() -> tuple[PublishedModel, ...]:
    """Return the models in the order of their model types. Raises `ModelError` if a config is
    rejected.
    """
    return tuple(
        PublishedModel(
            record["model"], record["billions"], record["config"], _spec_of(record["config"])
        )
        for path in sorted(RECORDS.glob("*.json"), key=lambda path: path.stem.lower())
        for record in json.loads(path.read_text(encoding="utf-8"))
    )


def write_checkpoint(folder: Path, config: dict[str, Any]) -> None:
    """Write the config and a weight file with one unused tensor to `folder`. The check of a model
    that is not built in requires a weight file.
    """
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    header = b'{"unused":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    size = len(header).to_bytes(8, "little")
    (folder / "model.safetensors").write_bytes(size + header + bytes(2))


def _spec_of(config: dict[str, Any]) -> ModelSpec | GenericSpec:
    with tempfile.TemporaryDirectory() as folder:
        unquantized = {key: config[key] for key in config if key != "quantization_config"}
        write_checkpoint(Path(folder), unquantized)
        return load_spec(Path(folder))
