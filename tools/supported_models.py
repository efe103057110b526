"""Writes the page of supported models from the family registry and the backends.

    python -m tools.supported_models

writes `docs/supported-models.md`. A test compares the page with the files. The page does not depend
on the processor, on accelerators or on other installed backends.
"""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import final

from tgi.architectures import ModelSpec
from tgi.architectures.parameter_names import tensor_shapes
from tgi.architectures.registry import FAMILIES
from tgi.architectures.text_models import TEXT_MODELS
from tools.model_support import Status, accepted_quantizations, backends, status_of
from tools.published_models import PublishedModel, published_models
from tools.spec_words import element_words, mixer_words

__all__ = ["PAGE", "supported_models_page"]

PAGE = Path(__file__).parents[1] / "docs" / "supported-models.md"

_MAX_COLUMNS = 100
_BILLION = 1e9
_MILLION = 1e6

_TGI_3 = (
    ("Deepseek V2", "deepseek_v2"),
    ("Deepseek V3", "deepseek_v3"),
    ("Idefics 2", "idefics2"),
    ("Idefics 3", "idefics3"),
    ("Llava Next (1.6)", "llava_next"),
    ("Llama", "llama"),
    ("Llama4", "llama4"),
    ("Phi 3", "phi3"),
    ("Granite", "granite"),
    ("Gemma", "gemma"),
    ("PaliGemma", "paligemma"),
    ("Gemma2", "gemma2"),
    ("Gemma3", "gemma3"),
    ("Gemma3 Text", "gemma3_text"),
    ("Cohere", "cohere"),
    ("Dbrx", "dbrx"),
    ("Mamba", "mamba"),
    ("Mistral", "mistral"),
    ("Mixtral", "mixtral"),
    ("Gpt Bigcode", "gpt_bigcode"),
    ("Phi", "phi"),
    ("PhiMoe", "phimoe"),
    ("Baichuan", "baichuan"),
    ("Falcon", "falcon"),
    ("StarCoder 2", "starcoder2"),
    ("Qwen 2", "qwen2"),
    ("Qwen 2 VL", "qwen2_vl"),
    ("Qwen 2.5 VL", "qwen2_5_vl"),
    ("Opt", "opt"),
    ("T5", "t5"),
    ("Galactica", "opt"),
    ("SantaCoder", "gpt_bigcode"),
    ("Bloom", "bloom"),
    ("Mpt", "mpt"),
    ("Gpt2", "gpt2"),
    ("Gpt Neox", "gpt_neox"),
    ("Gptj", "gptj"),
    ("Idefics", "idefics"),
    ("Mllama", "mllama"),
)
"""The families in the list of supported models of TGI 3.3, with their `model_type`."""

_IMAGES_IN_TGI_3 = frozenset(
    {
        "gemma3",
        "idefics",
        "idefics2",
        "idefics3",
        "llama4",
        "llava_next",
        "mllama",
        "paligemma",
        "qwen2_5_vl",
        "qwen2_vl",
    }
)
"""Model types for which TGI 3 accepts images. No backend of this repository accepts images yet."""

_HEAD = """# Supported models

This page is generated. To update it, run `python -m tools.supported_models`. The page is computed
from the table of model types in `core/tgi/architectures/registry.py`, from configs of published
models in `tests/core/architectures/published`, and from the checks of the backends in this
repository. `tgi inspect MODEL` reports the support for a model of your choice, also with other
backends.
"""

_TYPES = """## Built-in model types

`model_type` is a field of `config.json`. The module is a file in `core/tgi/architectures/families`.
A mixer is a sublayer, such as attention or an MLP. The columns `mixers` and `other parts` describe
the configs in the next section.
"""

_CONFIGS = """## Published models and backends

The configs are part of the tests. The configs contain the keys that affect the result, and were
written by hand. A test compares the number of parameters with the published number. The parameters
for images are not counted. A row without a model name describes a small config. Models of the same
`model_type` usually have the same status, but a config can contain an option that is not supported.
Other tests compare the output of each family with `transformers`, on small models with random
weights.

If a model is published in a quantized format, the name of the format is in parentheses. [Quantized
weights](quantization.md) lists the formats that can be served. Convert the weights of other models
to bfloat16 before you serve the model.

* `native`: all layers run in the compiled code of the backend. On the CPU, this code requires
  AVX-512 with bfloat16 instructions, and bfloat16 as the compute dtype. Otherwise, the model runs
  in torch operations. [TPU](tpu.md) describes how the TPU backend is tested.
* `torch`: the model runs in torch operations. The cell lists the parts that the native kernels do
  not support.
* `transformers`: the model runs in the modelling code of `transformers`. The sequences run one
  after the other, without a prefix cache and without `--quantize`.
* `rejected`: the startup fails with the reason in the cell.
"""

_QUANTIZATION = """## Quantization

These values of `--quantize` are accepted for unquantized checkpoints of built-in model types.
[Quantized weights](quantization.md) describes the values, and the matrices that are not quantized.
"""

_TEXT_MODELS = """## Text models of models that accept images

Only the text model of these models is served. Requests with images or audio are rejected. If a row
has no model name, the tests have no config of its model type.
"""


@final
@dataclass(frozen=True)
class _Row:
    """A model with its status on each backend."""

    model: PublishedModel
    statuses: dict[str, Status]

    @property
    def cells(self) -> list[str]:
        """The cells of the backends."""
        return [status.text for status in self.statuses.values()]


def supported_models_page(models: tuple[PublishedModel, ...]) -> str:
    """Return the page for these models."""
    rows = [_Row(model, {name: status_of(name, model) for name in backends()}) for model in models]
    by_type: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        by_type[row.model.model_type].append(row)
    return "\n".join(
        [
            _HEAD,
            _model_types(by_type),
            _configs(by_type),
            _quantization(by_type),
            _text_models(by_type),
            _tgi_3(by_type),
        ]
    )


def _model_types(by_type: dict[str, list[_Row]]) -> str:
    rows = []
    for name, module in FAMILIES.items():
        specs = [row.model.spec for row in by_type[name] if isinstance(row.model.spec, ModelSpec)]
        mixers = dict.fromkeys(words for spec in specs for words in mixer_words(spec))
        elements = dict.fromkeys(words for spec in specs for words in element_words(spec))
        rows.append([f"`{name}`", f"`{module}`", ", ".join(mixers), ", ".join(elements)])
    return "\n".join([_TYPES, _table(["`model_type`", "module", "mixers", "other parts"], rows)])


def _configs(by_type: dict[str, list[_Row]]) -> str:
    head = ["model", "`model_type`", "parameters", *backends()]
    rows = [
        [row.model.title, f"`{name}`", _parameters(row.model), *row.cells]
        for name in FAMILIES
        for row in by_type[name]
    ]
    untested = [f"`{name}`" for name in FAMILIES if not by_type[name]]
    gap = f"These model types have no config in the tests: {', '.join(untested)}."
    return "\n".join([_CONFIGS, *([_filled(gap)] if untested else []), _table(head, rows)])


def _parameters(model: PublishedModel) -> str:
    if not isinstance(model.spec, ModelSpec) or model.name is None:
        return ""
    number = sum(math.prod(shape) for shape in tensor_shapes(model.spec).values())
    millions = round(number / _MILLION)
    return f"{millions} M" if millions < _BILLION / _MILLION else f"{number / _BILLION:.2f} B"


def _quantization(by_type: dict[str, list[_Row]]) -> str:
    """One row per backend if it accepts the same values for all model types."""
    rows = []
    for backend in backends():
        types: dict[str, list[str]] = defaultdict(list)
        for name in FAMILIES:
            row = next(iter(by_type[name]), None)
            if row is not None and row.statuses[backend].name in ("native", "torch", "slow"):
                accepted = accepted_quantizations(backend, row.model)
                values = ", ".join(f"`{value}`" for value in accepted)
                types[values or "none"].append(f"`{name}`")
        for values, names in types.items():
            which = "all that the backend supports" if len(types) == 1 else ", ".join(names)
            rows.append([backend, values, which])
    return "\n".join([_QUANTIZATION, _table(["backend", "`--quantize`", "model types"], rows)])


def _text_models(by_type: dict[str, list[_Row]]) -> str:
    rows = []
    for name in sorted(TEXT_MODELS):
        found = [[f"`{name}`", row.model.title, *row.cells] for row in by_type[name]]
        rows += found or [[f"`{name}`", *[""] * (1 + len(backends()))]]
    return "\n".join([_TEXT_MODELS, _table(["`model_type`", "model", *backends()], rows)])


def _tgi_3(by_type: dict[str, list[_Row]]) -> str:
    rows, num_built_in = [], 0
    for title, name in _TGI_3:
        is_built_in = name in FAMILIES or name in TEXT_MODELS
        if is_built_in and name not in _IMAGES_IN_TGI_3:
            num_built_in += 1
            continue
        status = ["text only" if is_built_in else "not built in"]
        status += ["images are not supported yet"] if name in _IMAGES_IN_TGI_3 else []
        row = by_type[name][0] if by_type[name] else None
        cells = ["", *[""] * len(backends())] if row is None else [row.model.title, *row.cells]
        rows.append([title, f"`{name}`", "; ".join(status), *cells])
    text = (
        f"TGI 3.3 lists {len(_TGI_3)} families of models. Of these families, {num_built_in} are"
        " built in. The table contains the other families. The columns of the backends describe"
        " requests without images."
    )
    table = _table(["TGI 3", "`model_type`", "status", "model", *backends()], rows)
    return "\n".join(["## Models of TGI 3\n", _filled(text), table])


def _filled(text: str) -> str:
    return textwrap.fill(text, _MAX_COLUMNS, break_long_words=False, break_on_hyphens=False) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    """Write the page."""
    PAGE.write_text(supported_models_page(published_models()), encoding="utf-8")


if __name__ == "__main__":
    main()
