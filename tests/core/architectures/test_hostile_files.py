"""Files of a model that are damaged, or written by an attacker: one sentence each, at once."""

from __future__ import annotations

import json
import os
import socket
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from tgi.architectures import load_spec
from tgi.architectures.checkpoint import read_header, stored_tensors
from tgi.architectures.file_reader import MAX_JSON_BYTES, path_in_folder, read_json_object
from tgi.errors import ModelError
from tgi.testing.tiny_models import write_tiny_model
from tgi.text import ChatTemplate, Tokenizer

INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    write_tiny_model(path)
    return path


def rejected(function, *arguments):
    """The message of the `ModelError`, which must come within a second and be one line."""
    start = time.monotonic()
    with pytest.raises(ModelError) as caught:
        function(*arguments)
    assert time.monotonic() - start < 1
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1000
    assert caught.value.remedy
    return text


READERS = {
    "config.json": load_spec,
    "tokenizer_config.json": Tokenizer.load,
    "special_tokens_map.json": Tokenizer.load,
    "generation_config.json": Tokenizer.load,
    "tokenizer.json": Tokenizer.load,
    "chat_template.jinja": ChatTemplate.load,
    "chat_template.json": ChatTemplate.load,
    "model.safetensors": stored_tensors,
    INDEX: stored_tensors,
}


def replace(folder, name, make):
    """Replace a file by what `make(path)` creates. An index replaces the single file."""
    if name == INDEX:
        (folder / "model.safetensors").unlink()
    (folder / name).unlink(missing_ok=True)
    make(folder / name)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


NOT_FILES = {
    "FIFO": (os.mkfifo, "this is a FIFO, not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "this is a device, not a regular file"),
    "folder": (lambda path: path.mkdir(), "this is a folder, not a regular file"),
    "dead link": (lambda path: path.symlink_to("gone"), "the symbolic link points to gone"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", NOT_FILES)
def test_only_regular_files_are_read(folder, name, kind):
    make, expected = NOT_FILES[kind]
    replace(folder, name, make)
    text = rejected(READERS[name], folder)
    assert expected in text
    assert name in text


def test_a_socket_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is limited to 108 bytes
    make_socket("config.json")
    assert "cannot be read" in rejected(read_json_object, tmp_path / "config.json")


@pytest.mark.parametrize("name", sorted(READERS.keys() - {"chat_template.jinja"}))
def test_a_git_lfs_pointer_is_recognized(folder, name):
    replace(folder, name, lambda path: path.write_bytes(POINTER))
    text = rejected(READERS[name], folder)
    assert "this is a Git LFS pointer" in text
    assert "git lfs pull" in text


HOSTILE_JSON = {
    "nested": (b"[" * 100_000, "nested more than 100 levels deep"),
    "nested objects": (b'{"a":' * 100_000, "nested more than 100 levels deep"),
    "too large": (b"[" + b"1," * (MAX_JSON_BYTES // 2), f"the limit is {MAX_JSON_BYTES}"),
    "long number": (b'{"a":' + b"9" * 100_000 + b"}", "not valid JSON"),
    "byte order mark": (b"\xef\xbb\xbf{}", "begins with a byte order mark"),
    "not UTF-8": (b'{"a":"\xff"}', "not valid JSON"),
    "no object": (b"[]", "must contain a JSON object"),
    "empty": (b"", "not valid JSON"),
}


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "generation_config.json", "chat_template.json"]
)
@pytest.mark.parametrize("case", HOSTILE_JSON)
def test_hostile_json_is_rejected(folder, name, case):
    content, expected = HOSTILE_JSON[case]
    (folder / name).write_bytes(content)
    assert expected in rejected(READERS[name], folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_every_file_may_contain_the_numbers_that_transformers_reads(folder, name):
    fields = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(fields | {"a": float("inf"), "b": float("nan")}))
    READERS[name](folder)


OUTSIDE = ["/etc/passwd", "../secret.safetensors", "a/../../secret.safetensors", "..", "", "\0",
           "..\\secret.safetensors", "link.safetensors", "linked/secret.safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_in_an_index_opens_nothing_outside_of_the_folder(folder, name):
    secret = folder.parent / "secret.safetensors"
    os.mkfifo(secret)  # opening it would block
    (folder / "link.safetensors").symlink_to(secret)
    (folder / "linked").symlink_to(folder.parent)
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    assert f"{INDEX}: the file points outside the folder" in rejected(stored_tensors, folder)


def test_long_names_are_shortened(folder):
    (folder / "model.safetensors").unlink()
    for name in ("a" * 5000, "../" * 5000):
        (folder / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
        rejected(stored_tensors, folder)


def test_links_of_the_hub_cache_stay_in_its_repository(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "4d7a").write_bytes(b"")
    (tmp_path / "other").write_bytes(b"")
    (snapshot / "good.safetensors").symlink_to("../../blobs/4d7a")
    (snapshot / "bad.safetensors").symlink_to("../../../other")
    assert path_in_folder(snapshot, "good.safetensors", INDEX) == snapshot / "good.safetensors"
    assert "points outside" in rejected(path_in_folder, snapshot, "bad.safetensors", INDEX)


def test_a_folder_with_only_an_adapter_names_the_base_model(folder):
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    assert "a LoRA adapter of `owner/base`" in rejected(stored_tensors, folder)


def write(path, header, data=b""):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content + data)
    return path


def entry(start=0, stop=4, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def name_twice(first, second):
    return b'{"a":' + json.dumps(first).encode() + b',"a":' + json.dumps(second).encode() + b"}"


HEADERS = {
    "overlap": ({"a": entry(), "b": entry()}, 4, "overlaps another tensor"),
    "overlap in part": ({"a": entry(0, 8, (2,)), "b": entry(4, 8)}, 8, "overlaps another tensor"),
    "unused bytes before": ({"a": entry(4, 8)}, 8, "follows unused bytes"),
    "unused bytes after": ({"a": entry()}, 8, "the last tensor ends at byte"),
    "a name twice": (name_twice(entry(), entry(4, 8)), 8, "follows unused bytes"),
    "metadata": ({"__metadata__": {"a": 1}, "a": entry()}, 4, "the safetensors library rejects"),
    "unknown dtype": ({"a": entry(dtype="Q9")}, 4, "the safetensors library rejects"),
    "wrong size": ({"a": entry(shape=(2,), dtype="I32")}, 4, "I32 needs 8 bytes"),
    "large sizes": ({"a": entry(shape=(1 << 62,) * 9)}, 4, "needs"),
    "many sizes": ({"a": entry(shape=(1 << 62,) * 20_000)}, 4, "more than 16 dimensions"),
    "nested": (b'{"a":' + b"[" * 100_000, 0, "the header"),
    "a million names": (
        b"{" + b",".join(b'"%d":{}' % number for number in range(1_000_000)) + b"}",
        0,
        "the header contains 1000001 objects",
    ),
    "long name": ({"a" * 50_000: entry(4, 8)}, 8, "follows unused bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_hostile_headers_are_rejected(tmp_path, case):
    header, num_bytes, expected = HEADERS[case]
    path = write(tmp_path / "model.safetensors", header, bytes(num_bytes))
    assert expected in rejected(read_header, path)


DTYPES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "BOOL": 1, "F64": 8}
TENSORS = st.lists(
    st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 3), max_size=3)), max_size=4
)
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["start", "stop", "shape", "dtype"]),
        st.integers(-2, 3),
    ),
    max_size=2,
)


def layout(tensors):
    """A valid header for tensors (dtype, shape), and the number of bytes of their data."""
    header, end = {}, 0
    for number, (dtype, shape) in enumerate(tensors):
        size = DTYPES[dtype]
        for length in shape:
            size *= length
        header[f"t{number}"] = entry(end, end + size, shape, dtype)
        end += size
    return header, end


def change(header, changes):
    for number, field, amount in changes:
        changed = header.get(f"t{number}")
        if changed is None:
            continue
        if field == "shape":
            changed["shape"].append(max(0, amount))
        elif field == "dtype":
            changed["dtype"] = ["F8_E4M3", "U64", "Q1", "I8", "F32", "C64"][amount]
        else:
            changed["data_offsets"][field == "stop"] += amount


@settings(max_examples=300, deadline=None)
@given(TENSORS, CHANGES, st.integers(-1, 2))
def test_the_reader_agrees_with_the_library(tmp_path_factory, tensors, changes, more):
    header, num_bytes = layout(tensors)
    change(header, changes)
    path = tmp_path_factory.getbasetemp() / "property.safetensors"
    write(path, header, bytes(max(0, num_bytes + more)))
    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
    except SafetensorError:
        with pytest.raises(ModelError):
            read_header(path)
    else:
        assert read_header(path).keys() == names
