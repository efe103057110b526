"""Loading of weights: layouts of checkpoints, error messages, and memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.backends.checkpoints import save_checkpoint
from tgi.architectures import ModelSpec, load_spec
from tgi.backend import ModelError
from tgi_torch.model.decoder import Decoder, build_decoder
from tgi_torch.ops import REFERENCE
from tgi_torch.weights.loading import checkpoint_dtype, load_weights

NAME = "model.safetensors"
EMBEDDING = "model.embed_tokens.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"


def load(
    path: Path,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, int], None] = lambda d, t: None,
) -> Decoder:
    spec = load_spec(path)
    assert isinstance(spec, ModelSpec)
    decoder = build_decoder(spec, REFERENCE, dtype, "cpu")
    load_weights(decoder, path, progress)
    return decoder


def split_into_shards(path: Path, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Split the weights into two files. Returns the index."""
    (path / NAME).unlink()
    names = sorted(tensors)
    index = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file_name = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, path / file_name, {"format": "pt"})
        index.update(dict.fromkeys(part, file_name))
    return index


def change(path: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path / NAME)
    edit(tensors)
    save_file(tensors, path / NAME, {"format": "pt"})


def test_fused_parameters_contain_the_projections_in_order(original: Path) -> None:
    tensors, decoder = load_file(original / NAME), load(original)
    fused = decoder.blocks[2].first.mixer.qkv.weight
    stored = [tensors[f"model.layers.1.self_attn.{name}_proj.weight"] for name in "qkv"]
    assert torch.equal(fused, torch.cat(stored))
    fused = decoder.blocks[3].first.mixer.expand.weight
    assert torch.equal(
        fused,
        torch.cat([tensors[f"model.layers.1.mlp.{name}_proj.weight"] for name in ("gate", "up")]),
    )


def test_tied_head_shares_the_embedding(tmp_path: Path) -> None:
    save_checkpoint("qwen2", tmp_path)
    decoder = load(tmp_path)
    assert decoder.head.weight.data_ptr() == decoder.embedding.table.data_ptr()


@pytest.mark.parametrize("indexed", [True, False])
def test_several_files(original: Path, checkpoint: Path, indexed: bool) -> None:
    index = split_into_shards(checkpoint, load_file(original / NAME))
    if indexed:
        (checkpoint / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": index})
        )
        # Not in the index, so it is not read.
        shutil.copy(original / NAME, checkpoint / "consolidated.safetensors")
    for parameter, tensor in load(original).parameters.by_parameter.items():
        assert torch.equal(tensor, load(checkpoint).parameters.by_parameter[parameter])


def test_weights_are_cast_while_loading(original: Path) -> None:
    exact, rounded = load(original), load(original, torch.bfloat16)
    for parameter, tensor in exact.parameters.by_parameter.items():
        assert torch.equal(tensor.bfloat16(), rounded.parameters.by_parameter[parameter])
    assert rounded.parameters.num_bytes * 2 == exact.parameters.num_bytes


def test_unaligned_data(original: Path, checkpoint: Path) -> None:
    """The format allows any header length."""
    data = (checkpoint / NAME).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip() + b" " * 3
    header += b" " * (1 - len(header) % 2)
    (checkpoint / NAME).write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    for parameter, tensor in load(original).parameters.by_parameter.items():
        assert torch.equal(tensor, load(checkpoint).parameters.by_parameter[parameter])


def test_progress_rises_to_the_total(original: Path) -> None:
    reports: list[tuple[int, int]] = []
    decoder = load(original, progress=lambda done, total: reports.append((done, total)))
    done = [report[0] for report in reports]
    assert done == sorted(done)
    assert reports[0] == (0, decoder.parameters.num_bytes)
    assert reports[-1] == (decoder.parameters.num_bytes, decoder.parameters.num_bytes)


def test_checkpoint_dtype_is_that_of_most_bytes(checkpoint: Path) -> None:
    assert checkpoint_dtype(checkpoint) is torch.float32
    change(
        checkpoint,
        lambda t: t.update(
            {name: tensor.bfloat16() for name, tensor in t.items() if tensor.dim() == 2}
        ),
    )
    assert checkpoint_dtype(checkpoint) is torch.bfloat16


def truncate(path: Path) -> None:
    data = (path / NAME).read_bytes()
    (path / NAME).write_bytes(data[:-100])


def break_header(path: Path) -> None:
    data = (path / NAME).read_bytes()
    (path / NAME).write_bytes(data[:8] + b"?" + data[9:])


def claim_long_header(path: Path) -> None:
    data = (path / NAME).read_bytes()
    (path / NAME).write_bytes((1 << 60).to_bytes(8, "little") + data[8:])


def lose_byte_of_shape(path: Path) -> None:
    data = (path / NAME).read_bytes()
    (path / NAME).write_bytes(data.replace(b"[101,32]", b"[101,31]", 1))


def lose_shard(path: Path) -> None:
    index = split_into_shards(path, load_file(path / NAME))
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (path / "model-00002-of-00002.safetensors").unlink()


def break_index(path: Path) -> None:
    split_into_shards(path, load_file(path / NAME))
    (path / "model.safetensors.index.json").write_text("{")


def double_tensor(path: Path) -> None:
    tensors = load_file(path / NAME)
    split_into_shards(path, tensors)
    save_file({QUERY: tensors[QUERY]}, path / "more.safetensors")


REFUSED: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "missing": (
        lambda p: change(p, lambda t: t.pop(QUERY)),
        ["checkpoint: ", "no tensor `", "layers.1.self_attn.q_proj.weight`"],
    ),
    "extra": (
        lambda p: change(p, lambda t: t.update(stray=torch.ones(2))),
        ["checkpoint: ", "`stray`"],
    ),
    "misshaped": (
        lambda p: change(p, lambda t: t.update({QUERY: torch.ones(32, 30)})),
        [NAME, f"`{QUERY}`", "[32, 30]", "[32, 32]"],
    ),
    "transposed": (
        lambda p: change(p, lambda t: t.update({EMBEDDING: torch.ones(32, 101)})),
        [NAME, f"`{EMBEDDING}`"],
    ),
    "integer": (
        lambda p: change(p, lambda t: t.update({QUERY: t[QUERY].to(torch.int8)})),
        [NAME, f"`{QUERY}`", "I8", "BF16"],
    ),
    "truncated": (truncate, [NAME, "tensor `", "ends at byte"]),
    "unparsable": (break_header, [NAME, "header cannot be parsed"]),
    "long header": (claim_long_header, [NAME, "header should have"]),
    "bytes and shape differ": (lose_byte_of_shape, [NAME, "`lm_head.weight`", "[101, 31]"]),
    "empty file": (lambda p: (p / NAME).write_bytes(b""), [NAME, "0 bytes"]),
    "no file": (lambda p: (p / NAME).unlink(), ["no .safetensors file"]),
    "pickled": (
        lambda p: (p / NAME).rename(p / "pytorch_model.bin"),
        ["no .safetensors file", "tgi convert "],
    ),
    "lost shard": (lose_shard, ["model-00002-of-00002.safetensors", "is missing"]),
    "broken index": (
        break_index,
        ["index.json", "cannot be read"],
    ),
    "tensor in two files": (double_tensor, ["more.safetensors", f"`{QUERY}`", "also in"]),
}


def test_shards_in_a_subfolder_are_loaded(original: Path, checkpoint: Path) -> None:
    index = split_into_shards(checkpoint, load_file(checkpoint / NAME))
    (checkpoint / "shards").mkdir()
    for name in set(index.values()):
        (checkpoint / name).rename(checkpoint / "shards" / name)
    weight_map = {tensor: f"./shards/{name}" for tensor, name in index.items()}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same_parameters(load(checkpoint), load(original))


def test_a_single_file_takes_precedence_over_an_index_that_was_left_over(
    original: Path, checkpoint: Path
) -> None:
    weight_map = {"gone": "model-00001-of-00002.safetensors"}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same_parameters(load(checkpoint), load(original))


def test_names_of_a_compiled_model_are_loaded(original: Path, checkpoint: Path) -> None:
    tensors = load_file(checkpoint / NAME)
    save_file({f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}, checkpoint / NAME)
    assert_same_parameters(load(checkpoint), load(original))


def assert_same_parameters(loaded: Decoder, expected: Decoder) -> None:
    found = loaded.parameters.by_parameter
    assert found.keys() == expected.parameters.by_parameter.keys()
    for name, parameter in expected.parameters.by_parameter.items():
        assert torch.equal(found[name], parameter), name


@pytest.mark.parametrize("case", REFUSED)
def test_damaged_checkpoints_give_one_line_with_names(checkpoint: Path, case: str) -> None:
    damage, words = REFUSED[case]
    damage(checkpoint)
    with pytest.raises(ModelError) as caught:
        load(checkpoint)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.remedy
    for word in words:
        assert word in text


def test_buffers_without_parameters_are_ignored(original: Path, checkpoint: Path) -> None:
    change(
        checkpoint,
        lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
    )
    assert (
        load(checkpoint).parameters.by_parameter.keys()
        == load(original).parameters.by_parameter.keys()
    )


MEASURE = """
import sys
from pathlib import Path
import torch
from tgi.architectures import load_spec
from tgi_torch.model.decoder import build_decoder
from tgi_torch.ops import REFERENCE
from tgi_torch.weights.loading import load_weights

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

path, dtype = Path(sys.argv[1]), getattr(torch, sys.argv[2])
torch.set_num_threads(1)
spec = load_spec(path)
torch.ones(9, dtype=torch.float16).float()  # loads the code of a conversion, which is no weight
before = memory("VmRSS")
decoder = build_decoder(spec, REFERENCE, dtype, "cpu")
load_weights(decoder, path, lambda done, total: None)
print((memory("VmHWM") - before) / decoder.parameters.num_bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
@pytest.mark.parametrize("stored", ["float16", "float32"])
def test_memory_grows_by_little_more_than_the_weights(
    original: Path, tmp_path: Path, stored: str
) -> None:
    """No second copy and no pages of the files stay in memory, even for one large tensor."""
    config = json.loads((original / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"vocab_size": 500_000, "tie_word_embeddings": True})
    )
    tensors = {
        name: tensor.numpy().astype(stored) for name, tensor in load_file(original / NAME).items()
    }
    del tensors["lm_head.weight"]
    tensors[EMBEDDING] = np.ones((500_000, 32), stored)
    save_arrays(tensors, tmp_path / NAME)
    command = [sys.executable, "-c", MEASURE, str(tmp_path), "float32"]
    growth = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert growth < 1.15
