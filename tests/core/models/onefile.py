"""A backend of a third party that serves a model from a single file.

The tests check how the core handles a single file, not a format. Here, a file with the suffix
`.gguf` is therefore a ZIP archive of a tiny checkpoint. The tests copy this module into a package.
"""

from pathlib import Path
from zipfile import BadZipFile, ZipFile

import msgspec

from tgi.architectures import load_spec
from tgi.backend import (
    API_VERSION,
    GGUF,
    BackendInfo,
    DeviceInfo,
    ModelDescription,
    ModelError,
    ModelFilesWanted,
    ProbeResult,
    Support,
    hookimpl,
)
from tgi.testing.doubles.reference_backend import ReferenceBackend

_WEIGHTS = "model.safetensors"


class OnefileBackend:
    """Runs the numpy reference on the checkpoint in the archive."""

    @property
    def info(self):
        return BackendInfo(
            "onefile",
            API_VERSION,
            "tgi-onefile",
            "1.0",
            selectable=False,
            model_files=ModelFilesWanted(formats=(GGUF,), patterns=("README.md",)),
        )

    def probe(self):
        return ProbeResult(True, devices=(DeviceInfo("onefile", "numpy, for tests"),))

    def describe_model(self, model_path, model_format, cache_dir):
        assert model_format == "gguf"
        folder = Path(cache_dir) / "onefile" / Path(model_path).stem
        _extract(model_path, folder, skip=_WEIGHTS)
        return ModelDescription(load_spec(folder), str(folder))

    def supports(self, spec, config):
        assert config.model_format == "gguf"
        return Support("slow", ("numpy, for tests",))

    def create_worker(self, config, reporter):
        folder = Path(config.cache_dir) / "onefile" / f"{Path(config.model_path).stem}-weights"
        _extract(config.model_path, folder)
        config = msgspec.structs.replace(config, model_path=str(folder))
        return ReferenceBackend().create_worker(config, reporter)


def _extract(model_path, folder, skip=""):
    try:
        with ZipFile(model_path) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if name != skip])
    except (OSError, BadZipFile) as error:
        raise ModelError(f"{model_path}: the file cannot be read: {error}.") from error


@hookimpl
def tgi_backend():
    return OnefileBackend()
