"""Wrappers that give the numpy reference, its worker or its backend one fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tgi.backend import Backend, EngineConfig, Worker, WorkerReporter
from tgi.testing.doubles.reference_backend import ReferenceBackend, ReferenceModel
from tgi.worker.adapter import AdapterPlan, adapter_worker
from tgi.worker.step_worker import StepWorker

struct = msgspec.structs.replace
DEVICE_BYTES = 1 << 30
PROGRAM = b"compiled"
PLAN = AdapterPlan(
    max_total_tokens=1024, max_sequences=64, max_step_tokens=1024, max_cache_tokens=1 << 15
)


@dataclass
class FaultyModel:
    """`ReferenceModel` with a changed batch or changed logits."""

    inner: ReferenceModel
    change_batch: Callable = lambda batch: batch
    change_logits: Callable = lambda logits, batch: logits
    on_close: Callable = lambda: None

    @property
    def vocab_size(self):
        return self.inner.vocab_size

    def load(self, progress):
        self.inner.load(progress)

    def allocate(self, num_sequence_slots, progress):
        self.inner.allocate(num_sequence_slots, progress)

    def forward(self, batch):
        return self.change_logits(self.inner.forward(self.change_batch(batch)), batch)

    def close(self):
        self.on_close()
        self.inner.close()


@dataclass
class BackendWithWorker:
    """A backend whose workers are created by another function."""

    inner: Backend
    create_worker: Callable[[EngineConfig, WorkerReporter], Worker]

    @property
    def info(self):
        return self.inner.info

    def probe(self):
        return self.inner.probe()

    def supports(self, spec, config):
        return self.inner.supports(spec, config)


@dataclass
class FaultyWorker:
    """A worker with changed methods: `changes` maps a method to `change(inner, *arguments)`."""

    inner: StepWorker
    changes: dict[str, Callable] = field(default_factory=dict)

    def _call(self, name, *arguments):
        change = self.changes.get(name)
        return (
            getattr(self.inner, name)(*arguments)
            if change is None
            else change(self.inner, *arguments)
        )

    def load(self):
        return self._call("load")

    def negotiate(self, requested):
        return self._call("negotiate", requested)

    def warmup(self):
        return self._call("warmup")

    def submit(self, step):
        return self._call("submit", step)

    def collect(self):
        return self._call("collect")

    def control(self, request):
        return self._call("control", request)

    def health(self, deep):
        return self._call("health", deep)

    def close(self):
        return self._call("close")


@dataclass
class FaultyBackend:
    """The reference with a fault in the model, the worker or the `Backend` class."""

    change_spec: Callable = lambda spec: spec
    model: Callable[[], dict] = dict
    worker: Callable[[], dict] = dict
    methods: dict = field(default_factory=dict)
    reporter: Callable = lambda reporter: reporter
    plan: AdapterPlan = PLAN
    make_model: Callable = ReferenceModel
    # Changes the config for which the reference is asked whether it supports it.
    change_config: Callable = lambda config: config
    change_for: Callable | None = None  # returns the backend that makes the worker, by config

    @property
    def info(self):
        return self.methods.get("info", lambda info: info)(ReferenceBackend().info)

    def probe(self):
        return self.methods.get("probe", ReferenceBackend().probe)()

    def supports(self, spec, config):
        return self.methods.get("supports", ReferenceBackend().supports)(
            spec, self.change_config(config)
        )

    def create_worker(self, config, reporter):
        if self.change_for is not None:
            return self.change_for(config).create_worker(config, reporter)
        reference = self.make_model(self.change_spec(config.spec), Path(config.model_path))
        model = FaultyModel(reference, **self.model())
        return FaultyWorker(
            adapter_worker(model, self.plan, self.reporter(reporter)), self.worker()
        )


def attention(**changes):
    """Change the fields of every attention in the spec. A callable gets the old value."""

    def change(spec):
        stack = spec.stacks[0]
        layers = []
        for layer in stack.layers:
            blocks = []
            for block in layer.blocks:
                branches = tuple(
                    (
                        struct(branch, mixer=changed(branch.mixer))
                        if hasattr(branch.mixer, "num_kv_heads")
                        else branch
                    )
                    for branch in block.branches
                )
                blocks.append(struct(block, branches=branches))
            layers.append(struct(layer, blocks=tuple(blocks)))
        return struct(spec, stacks=(struct(stack, layers=tuple(layers)),))

    def changed(mixer):
        return struct(
            mixer, **{name: value(getattr(mixer, name)) for name, value in changes.items()}
        )

    return change


def in_model(change_batch=None, change_logits=None, **more):
    parts = {"change_batch": change_batch, "change_logits": change_logits} | more
    return FaultyBackend(model=lambda: {name: part for name, part in parts.items() if part})


def in_steps(change):
    """Change each step before the worker gets it.

    `change` is created again for each worker and may keep state.
    """

    def worker():
        changed = change()
        return {"submit": lambda inner, step: inner.submit(changed(step))}

    return FaultyBackend(worker=worker)


def in_output(change):
    """Change each result with `change(output, step)`."""

    def worker():
        steps = []

        def submit(inner, step):
            inner.submit(step)
            steps.append(step)

        def collect(inner):
            output = inner.collect()
            return output if output is None else change(output, steps.pop(0))

        return {"submit": submit, "collect": collect}

    return FaultyBackend(worker=worker)


def in_sampling(change):
    """Introduce each sequence with other sampling parameters."""

    def change_step(step):
        return struct(
            step, added=[struct(new, sampling=change(new.sampling)) for new in step.added]
        )

    return in_steps(lambda: change_step)


def in_worker(**changes):
    return FaultyBackend(worker=lambda: dict(changes))
