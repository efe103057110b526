"""Damaged and hostile GGUF files: one sentence that names the file and the fault, without a read of
large parts.
"""

import os
import struct
import tracemalloc

import pytest

from tests.core.checkpoints.gguf_writer import GgufFile, Tensor, string
from tgi.checkpoints.gguf.container import read_gguf
from tgi.errors import ModelError

ROW = Tensor("F32", (2, 4), bytes(range(32)))
KEYS = {"general.architecture": "llama", "a.b": 7}
ARRAY = struct.pack("<I", 9)


def file_with(**changes):
    """A small file, in which some fields are replaced."""
    fields = {"keys": dict(KEYS), "tensors": {"x": ROW, "y": ROW}} | changes
    return GgufFile(**fields)


def array(kind, count, data=b""):
    """An array of the metadata whose count may be wrong."""
    return ARRAY + struct.pack("<IQ", kind, count) + data


def with_tensor(**changes):
    fields = {"kind": "F32", "shape": (2, 4), "data": bytes(32)} | changes
    return file_with(tensors={"x": Tensor(**fields)})


def with_value(value):
    return file_with(keys=KEYS | {"k": value})


FAULTS = {
    "magic": (file_with(magic=b"GGML"), "it begins with b'GGML'"),
    "version 1": (file_with(version=1), "version 1"),
    "big endian": (file_with(version=3 << 24), "big-endian"),
    "many tensors": (file_with(num_tensors=2**63), "9223372036854775808 tensors"),
    "many keys": (file_with(num_keys=10**9), "1000000000 keys"),
    "more tensors than there are": (file_with(tensors={}, num_tensors=150_000), "ends at byte"),
    "long string": (with_value(struct.pack("<IQ", 8, 2**40)), "a string of 1099511627776 bytes"),
    "string of 64 bits": (with_value(struct.pack("<IQ", 8, 2**64 - 1)), "`k` has a string"),
    "no text": (with_value(struct.pack("<I", 8) + string(b"\xff\xfe")), "not UTF-8"),
    "array of 2^60 numbers": (with_value(array(5, 2**60)), "inside of `k`"),
    "array of 2^60 strings": (with_value(array(8, 2**60)), "1152921504606846976 strings"),
    "array of arrays": (with_value(array(9, 1, array(9, 1))), "an array of arrays"),
    "unknown value": (with_value(struct.pack("<I", 77)), "the unknown value type 77"),
    "unknown element": (with_value(array(77, 1)), "the unknown value type 77"),
    "split": (file_with(keys=KEYS | {"split.count": 3}), "split into 3 files"),
    "alignment": (file_with(keys=KEYS | {"general.alignment": 48}), "a power of 2"),
    "huge alignment": (file_with(keys=KEYS | {"general.alignment": 2**31}), "general.alignment"),
    "no dimensions": (with_tensor(shape=()), "0 dimensions"),
    "five dimensions": (with_tensor(shape=(1,) * 5), "5 dimensions"),
    "empty": (with_tensor(shape=(0, 4)), "the sizes [4, 0]"),
    "incomplete blocks": (with_tensor(kind="Q4_0", shape=(1, 40)), "blocks of 32 values"),
    "unknown type": (with_tensor(kind=99), "tensor `x` has the unknown type 99"),
    "removed type": (with_tensor(kind=4), "tensor `x` has the unknown type 4"),
    "beyond the end": (with_tensor(shape=(2**40, 2**20)), "tensor `x` ends at byte"),
    "offset beyond the end": (with_tensor(start=2**62), "tensor `x` ends at byte"),
    "unaligned": (with_tensor(start=8), "not a multiple of 32"),
    "overlap": (
        file_with(tensors={"x": ROW, "y": Tensor("F32", (2, 4), bytes(32), start=0)}),
        "tensor `y` overlaps",
    ),
}


def rejected(path):
    """The message of the `ModelError`, which is one short line, without a large allocation."""
    tracemalloc.start()
    try:
        with pytest.raises(ModelError) as caught:
            read_gguf(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    assert caught.value.remedy
    assert path.name in text
    return text


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(tmp_path, fault):
    content, part = FAULTS[fault]
    assert part in rejected(content.write(tmp_path / "model.gguf"))


def test_equal_names_are_rejected(tmp_path):
    whole = file_with(tensors={"xa": ROW, "xb": ROW})
    data = whole.header().replace(b"xb", b"xa") + whole.data()
    (tmp_path / "a.gguf").write_bytes(data)
    assert "two tensors with the name `xa`" in rejected(tmp_path / "a.gguf")
    whole = file_with(keys={"ka": 1, "kb": 2})
    (tmp_path / "b.gguf").write_bytes(whole.header().replace(b"kb", b"ka") + whole.data())
    assert "the key `ka` occurs twice" in rejected(tmp_path / "b.gguf")


def test_every_truncated_file_is_rejected(tmp_path):
    whole = file_with().write(tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "part.gguf"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        os.utime(path, ns=(size, size))
        rejected(path)


def test_files_that_are_not_regular(tmp_path):
    (tmp_path / "lfs.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid x\n")
    assert "Git LFS pointer" in rejected(tmp_path / "lfs.gguf")
    os.mkfifo(tmp_path / "fifo.gguf")
    assert "a FIFO" in rejected(tmp_path / "fifo.gguf")
    (tmp_path / "gone.gguf").symlink_to("nowhere")
    assert "gone.gguf" in rejected(tmp_path / "gone.gguf")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 256])
def test_a_file_without_faults(tmp_path, version, alignment):
    keys = {
        "text": "Löwe",
        "flag": True,
        "number": 3,
        "eps": 1e-5,
        "words": ["a", ""],
        "integers": [1, -2],
        "same": [4, 4],
        "general.alignment": alignment,
    }
    tensors = {"x": Tensor("F32", (2, 3, 4), bytes(96)), "y": Tensor("Q8_0", (2, 64), bytes(136))}
    whole = GgufFile(keys, tensors, version, alignment)
    header = read_gguf(whole.write(tmp_path / "model.gguf"))
    metadata = header.metadata
    assert metadata.text("text") == "Löwe"
    assert metadata.boolean("flag", default=False) is True
    assert (metadata.integer("number"), metadata.integer("same")) == (3, 4)
    assert metadata.number("eps") == 1e-5  # the shortest number with this float32
    assert metadata.strings("words") == ["a", ""]
    assert metadata.numbers("integers", 2) == [1, -2]
    assert metadata.integer("absent", default=9) == 9
    x, y = header.tensors["x"], header.tensors["y"]
    assert (x.shape, x.num_bytes, x.start) == ((2, 3, 4), 96, len(whole.header()))
    assert (y.shape, y.num_bytes, y.row_bytes, y.block_type.name) == ((2, 64), 136, 68, "Q8_0")
    assert y.start == x.start + len(whole._padded(bytes(96)))


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda m: m.text("number"), "`number` must be a string. Given: 3."),
        (lambda m: m.integer("text"), "`text` must be a whole number >= 1"),
        (lambda m: m.integer("integers"), "must be one whole number, the same for all layers"),
        (lambda m: m.integer("number", minimum=4), "must be a whole number >= 4. Given: 3."),
        (lambda m: m.number("text"), "must be a number"),
        (lambda m: m.number("nan"), "must be a finite number"),
        (lambda m: m.boolean("number", default=True), "must be true or false"),
        (lambda m: m.strings("text"), "must be an array of strings"),
        (lambda m: m.numbers("integers", 3), "must be an array of 3 numbers"),
        (lambda m: m.text("absent"), "the metadata has no `absent`"),
    ],
)
def test_values_of_another_type(tmp_path, call, part):
    keys = {"number": 3, "text": "x", "integers": [1, 2], "nan": float("nan")}
    metadata = read_gguf(GgufFile(keys).write(tmp_path / "model.gguf")).metadata
    with pytest.raises(ModelError, match=r"model\.gguf") as caught:
        call(metadata)
    assert part in str(caught.value)
