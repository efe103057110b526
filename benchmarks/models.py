"""Create checkpoints with random weights and a tokenizer, for benchmarks without a model hub.

    python benchmarks/models.py FOLDER [--only 135m|0.5b] [--gguf]

`135m` has the dimensions of SmolLM2-135M (Llama), `0.5b` those of Qwen2.5-0.5B (Qwen2). Both are
bfloat16 with tied embeddings. Weights are drawn from N(0, 0.02) with a fixed seed, norms are 1 and
biases are 0. Random weights are sufficient, because speed does not depend on their values. With
`--gguf` the models are also written for llama.cpp.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tgi.bench.prompts import WORDS

Shape = tuple[int, ...]
Bits = npt.NDArray[np.uint16]

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content"
    " }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The tokenizer is trained for this many tokens. The rest of the vocabulary are unused words.
_TRAINED_TOKENS = 16_384
_CORPUS_BYTES = 4_000_000
_ONE = 0x3F80  # The bits of 1.0 in bfloat16.


@dataclass(frozen=True)
class Model:
    """The dimensions of a decoder. The fields are named as in `config.json`."""

    model_type: str
    architecture: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    rope_theta: float
    rms_norm_eps: float
    has_qkv_bias: bool

    @property
    def head_dim(self) -> int:
        """Size of one head of the queries, keys and values."""
        return self.hidden_size // self.num_attention_heads

    @property
    def kv_size(self) -> int:
        """Size of the keys of one token, over all heads."""
        return self.num_key_value_heads * self.head_dim

    def tensors(self) -> dict[str, Shape]:
        """Return the shape of every tensor by name. Matrices are (out, in)."""
        hidden, inner = self.hidden_size, self.intermediate_size
        shapes: dict[str, Shape] = {
            "model.embed_tokens.weight": (self.vocab_size, hidden),
            "model.norm.weight": (hidden,),
        }
        for layer in range(self.num_hidden_layers):
            prefix = f"model.layers.{layer}."
            projections = {"q": hidden, "k": self.kv_size, "v": self.kv_size}
            shapes |= {
                f"{prefix}{norm}.weight": (hidden,)
                for norm in ("input_layernorm", "post_attention_layernorm")
            }
            shapes |= {
                f"{prefix}self_attn.{name}_proj.weight": (size, hidden)
                for name, size in projections.items()
            }
            if self.has_qkv_bias:
                shapes |= {
                    f"{prefix}self_attn.{name}_proj.bias": (size,)
                    for name, size in projections.items()
                }
            shapes[f"{prefix}self_attn.o_proj.weight"] = (hidden, hidden)
            shapes |= {
                f"{prefix}mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")
            }
            shapes[f"{prefix}mlp.down_proj.weight"] = (hidden, inner)
        return shapes

    @property
    def num_parameters(self) -> int:
        """Number of parameters. Tied parameters are counted once."""
        return sum(int(np.prod(shape)) for shape in self.tensors().values())

    def config(self) -> dict[str, object]:
        """Return the contents of `config.json`."""
        names = [
            name
            for name in self.__dataclass_fields__
            if name not in ("architecture", "has_qkv_bias")
        ]
        return {name: getattr(self, name) for name in names} | {
            "architectures": [self.architecture],
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "bos_token_id": 1,
            "eos_token_id": 0,
        }


MODELS = {
    "135m": Model(
        "llama", "LlamaForCausalLM", 576, 30, 9, 3, 1536, 49152, 8192, 1e5, 1e-5, has_qkv_bias=False
    ),
    "0.5b": Model(
        "qwen2",
        "Qwen2ForCausalLM",
        896,
        24,
        14,
        2,
        4864,
        151936,
        32768,
        1e6,
        1e-6,
        has_qkv_bias=True,
    ),
}


def write_model(path: Path, model: Model) -> None:
    """Write config, weights and tokenizer to `path`, unless the weights exist."""
    if (path / "model.safetensors").is_file():
        return
    path.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(path, model)
    _write_json(path / "config.json", model.config())
    _write_json(
        path / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 0, "do_sample": False}
    )
    write_safetensors(path / "model.safetensors", model.tensors(), weights(model))


def weights(model: Model) -> Iterator[Bits]:
    """Yield the bfloat16 bits of each tensor in the order of `Model.tensors`. This is a generator,
    because all tensors together may not fit in memory.
    """
    for number, (name, shape) in enumerate(model.tensors().items()):
        if "norm" in name:
            yield np.full(shape, _ONE, np.uint16)
        elif name.endswith("bias"):
            yield np.zeros(shape, np.uint16)
        else:
            drawn = np.random.default_rng(number).standard_normal(shape, np.float32)
            yield _bfloat16_bits(drawn * np.float32(0.02))


def _bfloat16_bits(values: npt.NDArray[np.float32]) -> Bits:
    """Return the upper half of each float32, rounded to nearest, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path: Path, shapes: dict[str, Shape], contents: Iterator[Bits]) -> None:
    """Write a safetensors file: the header's length, the header and the tensors. The file gets its
    final name after it is complete.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in shapes.items():
        end = position + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for content in contents:
            file.write(content.tobytes())
    partial.replace(path)


def _write_tokenizer(path: Path, model: Model) -> None:
    """Train a byte-level BPE tokenizer on the source files of Python's standard library. The words
    of the benchmark prompts become single tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(_TRAINED_TOKENS, model.vocab_size),
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for number in range(len(vocabulary), model.vocab_size):
        vocabulary[f"Ġunused{number}"] = number
    _write_json(path / "tokenizer.json", state)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": _SPECIAL[0],
        "chat_template": _CHAT_TEMPLATE,
    }
    _write_json(
        path / "tokenizer_config.json",
        settings | {"model_max_length": model.max_position_embeddings},
    )


def _corpus() -> Iterator[str]:
    yield from (f"{word} {word}\n" * 100 for word in WORDS)
    size = 0
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = file.read_text(encoding="utf-8", errors="ignore")
        size += len(text)
        if size > _CORPUS_BYTES:
            return
        yield text


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def main() -> int:
    """Write the requested models."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--gguf", action="store_true", help="also write model.gguf")
    arguments = parser.parse_args()
    writers: list[Callable[[Path, Model], None]] = [write_model]
    if arguments.gguf:
        from gguf_file import write_gguf  # noqa: PLC0415 - gguf_file imports this module

        writers.append(write_gguf)
    for name, model in MODELS.items():
        if arguments.only in (None, name):
            for write in writers:
                write(arguments.folder / name, model)
            print(f"{arguments.folder / name}: {model.num_parameters / 1e6:.1f} M parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
