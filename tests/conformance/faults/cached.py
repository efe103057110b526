"""The example's model with a cache of keys and values, in float32 or rounded to bfloat16.

It is faster than the numpy reference, which computes whole sequences, and it can have faults of the
cache.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace

import numpy as np

from tests.conformance.faults.wrappers import PLAN, FaultyBackend, in_output, in_steps, in_worker
from tests.core.house.sources import ROOT
from tgi.testing.reference.operations import rounding_to

_PACKAGE = ROOT / "examples" / "tgi-backend-example" / "tgi_backend_example"
_EMPTY = np.empty(0, np.int32)


def _load():
    spec = importlib.util.spec_from_file_location("example_model", _PACKAGE / "model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.ExampleModel


CachedModel = _load()
to_bfloat16 = rounding_to("bfloat16")


class HalfModel(CachedModel):
    """Computes in bfloat16: the result of each operation is rounded."""

    def load(self, progress):
        super().load(progress)
        self._weights = {name: to_bfloat16(array) for name, array in self._weights.items()}

    def _linear(self, x, name):
        return to_bfloat16(super()._linear(to_bfloat16(x), name))

    def _norm(self, x, rule, name):
        return to_bfloat16(super()._norm(to_bfloat16(x), rule, name))


def copying_only(*caches):
    """A model of which only these caches, `_keys` or `_values`, take part in copies of blocks."""

    def mixed_in(base):
        class Model(base):
            def forward(self, batch):
                for name in caches:
                    for cache in getattr(self, name):
                        cache[batch.copy_target] = cache[batch.copy_source]
                return super().forward(replace(batch, copy_source=_EMPTY, copy_target=_EMPTY))

        return Model

    return mixed_in


HALF_PLAN = replace(PLAN, dtype="bfloat16")
HALF = FaultyBackend(make_model=HalfModel, plan=HALF_PLAN)
CACHED = FaultyBackend(make_model=CachedModel)


def in_cached(change_batch=None, change_logits=None, **more):
    """The cached model with a changed batch or changed logits."""
    parts = {"change_batch": change_batch, "change_logits": change_logits}
    made = {name: part for name, part in parts.items() if part}
    return FaultyBackend(make_model=CachedModel, model=lambda: dict(made), **more)


def cached(backend):
    """The same fault, in the cached model."""
    return replace(backend, make_model=CachedModel)


def in_cached_steps(change):
    return cached(in_steps(change))


def in_cached_output(change):
    return cached(in_output(change))


def in_cached_worker(**changes):
    return cached(in_worker(**changes))
