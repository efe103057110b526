"""The null backend: scripted tokens, scripted failures, no model. It enters by the same door as
every backend.

The whole server can be tested on it in milliseconds. `auto` never takes it. Its script is a JSON
file named by `--null-script`; without one it echoes the prompt.
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
    """The light half."""

    @property
    def info(self) -> BackendInfo:
        """Never taken by `auto`."""
        option = BackendOption(
            "script", "JSON file with the tokens and failures of the null backend"
        )
        return BackendInfo(
            "null", API_VERSION, "tgi", __version__, -1000, selectable=False, options=(option,)
        )

    def probe(self) -> ProbeResult:
        """Usable everywhere."""
        return ProbeResult(True, devices=(DeviceInfo("null", "no device"),))

    def supports(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Support:
        """Every model: it looks at none."""
        del spec, config
        return Support("native", ("scripted tokens, no model",))

    def create_worker(self, config: EngineConfig, reporter: WorkerReporter) -> Worker:
        """The heavy half, which is not heavy here."""
        from tgi.testing.doubles.null_worker import (  # noqa: PLC0415
            NullWorker,
        )

        return NullWorker(config, read_script(config.options.get("script", "")), reporter)


@hookimpl
def tgi_backend() -> Backend:
    """The null backend."""
    return NullBackend()
