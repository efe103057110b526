"""The specs of published configs have the published number of parameters."""

from __future__ import annotations

import math

import pytest

from tgi.architectures import ModelSpec
from tgi.architectures.parameter_names import tensor_shapes
from tgi.architectures.registry import FAMILIES
from tgi.architectures.text_models import TEXT_MODELS
from tools.published_models import RECORDS, published_models

# The published numbers are rounded.
RELATIVE_DIFFERENCE = 0.011

MODELS = published_models()
COUNTED = {
    model.name: (model.spec, model.billions)
    for model in MODELS
    if model.billions is not None and isinstance(model.spec, ModelSpec)
}


@pytest.mark.parametrize("name", COUNTED)
def test_number_of_parameters(name: str) -> None:
    spec, billions = COUNTED[name]
    number = sum(math.prod(shape) for shape in tensor_shapes(spec).values())
    assert number / 1e9 == pytest.approx(billions, rel=RELATIVE_DIFFERENCE)


def test_the_number_is_missing_only_for_small_configs() -> None:
    built_in = [model for model in MODELS if model.model_type in FAMILIES.keys() | TEXT_MODELS]
    uncounted = {model.model_type for model in built_in if model.billions is None}
    assert uncounted <= {"cohere2_moe", "granitemoeshared", "ministral"}


def test_each_file_has_the_name_of_its_model_type() -> None:
    types = dict.fromkeys(model.model_type for model in MODELS)
    assert list(types) == [path.stem for path in sorted(RECORDS.glob("*.json"), key=name_of)]


def name_of(path) -> str:
    return path.stem.lower()


def test_no_model_has_two_records() -> None:
    names = [(model.name, model.model_type) for model in MODELS]
    assert len(names) == len(set(names))
