"""Plugins whose backends read single files, but do not describe them as `onefile` does."""

from dataclasses import dataclass

from tests.core.models.onefile import OnefileBackend
from tgi.backend import hookimpl


class SilentBackend:
    """Reads the format, but does not describe models."""

    def __init__(self):
        reader = OnefileBackend()
        self.info = reader.info
        self.probe = reader.probe
        self.supports = reader.supports
        self.create_worker = reader.create_worker


class BrokenBackend(SilentBackend):
    """Fails to describe a model."""

    def describe_model(self, model_path, model_format, cache_dir):
        raise ZeroDivisionError(model_path)


@dataclass(frozen=True)
class Plugin:
    """The value of an entry point."""

    backend: object

    @hookimpl
    def tgi_backend(self):
        return self.backend


silent = Plugin(SilentBackend())
broken = Plugin(BrokenBackend())
