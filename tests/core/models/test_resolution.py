"""The files that are chosen or rejected for a model id, depending on the backend."""

import shutil
from importlib import metadata

import pytest

from tgi.architectures import load_spec
from tgi.backend import GGUF, SAFETENSORS, BackendError, EngineConfig, ModelError
from tgi.config import Environment, ServeOptions
from tgi.models import (
    Model,
    ModelSource,
    describe_model,
    find_model,
    find_tokenizer,
    installed_formats,
    usable_formats,
)
from tgi.plugins import BackendRegistry
from tgi.plugins.hookspecs import ENTRY_POINT_GROUP

NO_READER = (
    "it reads models in the format `safetensors`, not in `gguf`, which no installed backend reads"
)


def find(model_id, readable, **options):
    options = ServeOptions(model_id=str(model_id), **options)
    return find_model(options, Environment(hf_hub_offline=True), readable, lambda _: None)


def describe(source, readable, tmp_path, **options):
    environment = Environment(cache_folder=str(tmp_path / "cache"))
    return describe_model(source, ServeOptions(**options), environment, readable)


def test_a_folder_is_the_model_of_a_backend_that_reads_safetensors(tiny_model, with_reader):
    source = find(tiny_model, usable_formats(with_reader, "null"))
    assert (source.path, source.folder, source.model_format) == (
        tiny_model,
        tiny_model,
        SAFETENSORS,
    )


def test_a_single_file_is_a_model_with_the_description_of_its_backend(
    single_file, tiny_model, with_reader, tmp_path
):
    readable = usable_formats(with_reader, "onefile")
    source = find(single_file, readable)
    assert (source.path, source.folder, source.model_format) == (
        single_file,
        single_file.parent,
        GGUF,
    )
    model = describe(source, readable, tmp_path)
    assert model.spec == load_spec(tiny_model)
    assert find_tokenizer(model).is_relative_to(tmp_path / "cache")


def test_config_and_tokenizer_beside_the_file_are_read_by_the_core(
    single_file, tiny_model, without_reader, tmp_path
):
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(tiny_model / name, tmp_path)
    shutil.copy(single_file, tmp_path)
    readable = installed_formats(without_reader)
    model = describe(find(tmp_path / single_file.name, readable), readable, tmp_path)
    assert model.spec == load_spec(tiny_model)
    assert find_tokenizer(model) == tmp_path


def test_options_that_change_a_config_need_one(single_file, with_reader, tmp_path):
    readable = usable_formats(with_reader, "onefile")
    source = find(single_file, readable)
    with pytest.raises(ModelError, match=r"`--rope-factor` change the config\.json"):
        describe(source, readable, tmp_path, rope_factor=2.0)


def test_a_format_that_no_backend_reads(single_file, without_reader, tmp_path):
    readable = installed_formats(without_reader)
    source = find(single_file, readable)
    assert source.model_format == GGUF
    with pytest.raises(BackendError, match="format `gguf`, which no installed backend reads"):
        describe(source, readable, tmp_path)
    with pytest.raises(BackendError, match="No installed backend reads models in the format"):
        without_reader.usable("auto", "gguf")
    with pytest.raises(BackendError) as raised:
        without_reader.usable("null", "gguf")
    assert str(raised.value) == f"The backend `null` cannot be used: {NO_READER}."


def test_the_error_names_a_backend_that_reads_the_format(single_file, with_reader, tiny_model):
    config = EngineConfig("null", str(single_file), load_spec(tiny_model), model_format="gguf")
    support = with_reader.supported("null", config.spec, config).support
    assert (support.status, support.reasons) == (
        "no",
        (NO_READER.replace("no installed backend", "the installed backend `onefile`"),),
    )
    with pytest.raises(BackendError, match="`safetensors`, not in `gguf`"):
        with_reader.select("null", config.spec, config)
    assert with_reader.select("onefile", config.spec, config).chosen.name == "onefile"


@pytest.mark.parametrize(
    ("plugin", "error", "text"),
    [
        ("silent", ModelError, r"tiny\.gguf: the file is no GGUF file: it begins with b'PK"),
        ("broken", BackendError, r"`onefile` failed to describe .*: ZeroDivisionError"),
    ],
)
def test_a_backend_that_does_not_describe_the_model(single_file, tmp_path, plugin, error, text):
    value = f"tests.core.models.other_readers:{plugin}"
    point = metadata.EntryPoint("onefile", value, ENTRY_POINT_GROUP)
    readable = usable_formats(BackendRegistry([point]), "onefile")
    source = find(single_file, readable)
    with pytest.raises(error, match=text):
        describe(source, readable, tmp_path)


def test_a_damaged_file_is_named(with_reader, tmp_path):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(b"no archive")
    readable = usable_formats(with_reader, "onefile")
    with pytest.raises(ModelError, match=r"damaged\.gguf: the file cannot be read"):
        describe(find(path, readable), readable, tmp_path)


def test_a_missing_tokenizer_is_reported(tiny_model, tmp_path):
    model = Model(ModelSource("a", tmp_path / "a.gguf", GGUF), load_spec(tiny_model), tmp_path)
    with pytest.raises(ModelError, match=r"There is no tokenizer for .*a\.gguf"):
        find_tokenizer(model)


def test_a_folder_with_one_single_file_model(single_file, with_reader):
    source = find(single_file.parent, usable_formats(with_reader, "onefile"))
    assert source.path == single_file


def test_a_folder_with_several_single_file_models(tmp_path, with_reader):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=r"contains 2 models in the format `gguf`: a\.gguf, b"):
        find(tmp_path, usable_formats(with_reader, "onefile"))


def test_the_preferred_format_of_a_folder_that_has_two(
    single_file, tiny_model, with_reader, tmp_path
):
    folder = shutil.copytree(tiny_model, tmp_path / "both")
    shutil.copy(single_file, folder)
    assert find(folder, usable_formats(with_reader, "null")).path == folder
    assert find(folder, usable_formats(with_reader, "onefile")).path == folder / "tiny.gguf"
    preferred = installed_formats(with_reader, "onefile")
    assert find(folder, preferred).path == folder / "tiny.gguf"


def test_a_file_that_is_no_model(tiny_model, with_reader):
    readable = usable_formats(with_reader, "onefile")
    with pytest.raises(ModelError, match=r"is a file\. Name the folder"):
        find(tiny_model / "model.safetensors", readable)
    with pytest.raises(ModelError, match="does not exist"):
        find("a/b/c.safetensors", readable)


def test_a_folder_in_place_of_the_model(single_file, with_reader, tmp_path):
    readable = usable_formats(with_reader, "onefile")
    source = find("owner/name", readable, weights_cache_override=str(single_file.parent))
    assert (source.model_id, source.path) == ("owner/name", single_file)
    (tmp_path / "config.json").touch()
    with pytest.raises(ModelError, match=r"`--weights-cache-override` contains no \*\.safetensors"):
        find("owner/name", readable, weights_cache_override=str(tmp_path))


def test_a_missing_backend_is_reported_before_the_model_is_searched(with_reader):
    with pytest.raises(BackendError, match="`nil` is not installed"):
        usable_formats(with_reader, "nil")
