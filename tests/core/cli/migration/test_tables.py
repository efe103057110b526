"""The tables of images, flags and variables agree with the options and the backends."""

import pytest

from tests.core.house.sources import ROOT
from tgi.cli.migration.backend_questions import rejections
from tgi.cli.migration.container_flags import LOST_FLAGS, read_flags
from tgi.cli.migration.data import (
    DROPPED_FLAGS,
    IMAGE_VARIANTS,
    KEPT_VARIABLES,
    PATH_VARIABLES,
    REPLACED_VARIABLE_PREFIXES,
    REPLACED_VARIABLES,
    SAGEMAKER_VARIABLES,
)
from tgi.cli.migration.images import image_facts
from tgi.cli.migration.readers.files import read_line
from tgi.cli.migration.translation import migrate
from tgi.cli.migration.words import Word
from tgi.config import OPTIONS, ServeOptions
from tgi.plugins import BackendRegistry

NAME = "ghcr.io/huggingface/text-generation-inference"


def image(name):
    return image_facts(Word.of(name))


@pytest.mark.parametrize(
    ("name", "platform", "hardware", "cache"),
    [
        (NAME, "", "NVIDIA GPUs", "HF_HOME"),
        (f"{NAME}:latest", "", "NVIDIA GPUs", "HF_HOME"),
        (f"{NAME}:0.9.4", "", "NVIDIA GPUs", "HUGGINGFACE_HUB_CACHE"),
        (f"{NAME}:v2.2.0", "", "NVIDIA GPUs", "HUGGINGFACE_HUB_CACHE"),
        (f"{NAME}:2.3.0-rocm", "", "AMD GPUs", "HF_HOME"),
        (f"{NAME}:3.0.0-intel-xpu", "", "Intel GPUs", "HF_HOME"),
        (f"{NAME}:latest-intel-cpu", "", "CPUs", "HF_HOME"),
        (f"{NAME}:3.3.4-gaudi", "", "Gaudi", "HF_HOME"),
        (f"{NAME}:2@sha256:0.1", "", "NVIDIA GPUs", "HF_HOME"),
        ("localhost:5000/huggingface/text-generation-inference:1.1", "", "NVIDIA GPUs", None),
        ("ghcr.io/huggingface/tgi-gaudi:2.0.5", "", "Gaudi", "HUGGINGFACE_HUB_CACHE"),
        ("ghcr.io/huggingface/tgi-gaudi:2.3.1", "", "Gaudi", "HF_HOME"),
        ("ghcr.io/huggingface/optimum-tpu:v0.2.0-tgi", "", "TPUs", "HF_HOME"),
        (f"{NAME}:3.0-sagemaker", "sagemaker", "NVIDIA GPUs", "HF_HOME"),
        (
            "1.dkr.ecr.x.amazonaws.com/huggingface-pytorch-tgi-inference:2.1.1-optimum0.0.27"
            "-neuronx-py310-ubuntu22.04",
            "sagemaker",
            "Trainium and Inferentia",
            None,
        ),
        (
            "us-docker.pkg.dev/x/gcr.io/huggingface-text-generation-inference-cu121.2-2.ubuntu2204",
            "vertex",
            "NVIDIA GPUs",
            "HUGGINGFACE_HUB_CACHE",
        ),
    ],
)
def test_an_official_image(name, platform, hardware, cache):
    facts = image(name)
    assert facts.is_known
    assert (facts.platform, facts.variant.hardware) == (platform, hardware)
    assert cache in (None, facts.cache_variable)


@pytest.mark.parametrize("name", ["nginx", "vllm/vllm-openai:latest", "my/tgi", "", "a:text"])
def test_an_image_that_is_not_official(name):
    assert not image(name).is_known


def test_every_backend_of_the_repository_belongs_to_an_image():
    """A new backend for the hardware of an image must be named in the table of images."""
    of_images = {name for variant in IMAGE_VARIANTS.values() for name in variant.backends}
    packages = {path.parent.name for path in (ROOT / "backends").glob("*/pyproject.toml")}
    libraries = {"torch", "triton"}
    assert packages - libraries <= of_images


def test_the_variables_of_the_tables_are_disjoint():
    assert not KEPT_VARIABLES & REPLACED_VARIABLES.keys()
    assert set(PATH_VARIABLES) <= KEPT_VARIABLES
    of_options = {row.environment for row in OPTIONS}
    assert not of_options & (KEPT_VARIABLES | REPLACED_VARIABLES.keys())
    assert set(SAGEMAKER_VARIABLES.values()) <= of_options
    for prefix in REPLACED_VARIABLE_PREFIXES:
        assert not [name for name in KEPT_VARIABLES | of_options if name.startswith(prefix)]


def test_dropped_flags_are_no_options():
    assert not DROPPED_FLAGS.keys() & {row.flag for row in OPTIONS}


@pytest.mark.parametrize("flag", sorted(LOST_FLAGS))
def test_every_lost_flag_is_a_flag_and_is_reported(flag):
    words = [Word.of(flag), Word.of("1"), Word.of(NAME)]
    ((name, _),), rest = read_flags(words, "docker")
    assert name == flag
    value = "" if len(rest) == 2 else " 1"
    migration = migrate(read_line(f"docker run {flag}{value} {NAME} --model-id o/m"))
    assert any(f"not converted: `{flag}`" in change for change in migration.changes)


class _Backends:
    """The registry of the installed backends, with counted questions."""

    def __init__(self):
        self.registry = BackendRegistry()
        self.questions = 0

    def __getattr__(self, name):
        self.questions += name == "supported"
        return getattr(self.registry, name)


def test_backends_are_asked_only_about_options_that_they_may_reject():
    backends = _Backends()
    assert rejections(ServeOptions(max_total_tokens=9, num_shard=1), backends) == []
    assert backends.questions == 0
    assert rejections(ServeOptions(num_shard=999), backends)
    assert backends.questions
