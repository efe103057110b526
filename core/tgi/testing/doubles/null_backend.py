"""The null backend: scripted tokens and scripted failures without a model. It is registered like
any other backend.

With the null backend, tests of the whole server take milliseconds. `auto` never selects the null
backend. The option `--null-script` is the path of its script, a JSON file. Without a script the
output is a copy of the prompt.
"""

from __future__ import annotations

from typing import final

from tgi import __version__
from tgi.architectures import GenericSpec, ModelSpec
from tgi.backend import (
    API_VERSION,
    Backend,
    BackendInfo,
    BackendOption,
    DeviceInfo,
    EngineConfig,
    ProbeResult,
    Support,
    Worker,
    WorkerReporter,
    hookimpl,
)
from tgi.testing.doubles.null_script import read_script

__all__ = ["NullBackend", "tgi_backend"]


@final
class NullBackend:
    """The `Backend` of the null backend."""

    @property
    def info(self) -> BackendInfo:
        """Return a description that `auto` never selects."""
        option = BackendOption(
            "script", "JSON file with the tokens and failures of the null backend"
        )
        return BackendInfo(
            "null", API_VERSION, "tgi", __version__, -1000, selectable=False, options=(option,)
        )

    def probe(self) -> ProbeResult:
        """Report that the backend is usable on every machine."""
        return ProbeResult(True, devices=(DeviceInfo("null", "no device"),))

    def supports(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Support:
        """Support every model, because no model is loaded."""
        del spec, config
        return Support("native", ("scripted tokens, no model",))

    def create_worker(self, config: EngineConfig, reporter: WorkerReporter) -> Worker:
        """Create the worker with the script of `config`."""
        from tgi.testing.doubles.null_worker import (  # noqa: PLC0415
            NullWorker,
        )

        return NullWorker(config, read_script(config.options.get("script", "")), reporter)


@hookimpl
def tgi_backend() -> Backend:
    """Return the null backend."""
    return NullBackend()
