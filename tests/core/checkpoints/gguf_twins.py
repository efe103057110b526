"""Tiny models with the same weights as a GGUF file and as a folder in Hugging Face format.

The tables are written from the converter of llama.cpp, independently of `tgi.checkpoints.gguf`.
"""

import json

import numpy as np
from safetensors.numpy import save_file

from tests.core.checkpoints.gguf_blocks import DECODERS, random_rows
from tests.core.checkpoints.gguf_writer import GgufFile, Tensor
from tgi.testing.tiny_models import write_tokenizer

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INNER, LAYERS, VOCAB, EXPERTS = 64, 4, 2, 16, 128, 2, 384, 4
KINDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16", "F32")

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5000.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
KEYS = {
    "embedding_length": HIDDEN,
    "feed_forward_length": INNER,
    "block_count": LAYERS,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "context_length": 512,
    "rope.freq_base": 5000.0,
}
HEAD_KEYS = {"attention.key_length": HEAD_DIM, "attention.value_length": HEAD_DIM}

Q, K = (HEADS * HEAD_DIM, HIDDEN), (KV_HEADS * HEAD_DIM, HIDDEN)
NORM, HEAD_NORM = (HIDDEN,), (HEAD_DIM,)
ATTENTION = {
    "attn_norm": ("input_layernorm", NORM),
    "attn_q": ("self_attn.q_proj", Q),
    "attn_k": ("self_attn.k_proj", K),
    "attn_v": ("self_attn.v_proj", K),
    "attn_output": ("self_attn.o_proj", (HIDDEN, HEADS * HEAD_DIM)),
}
MLP = {
    "ffn_gate": ("mlp.gate_proj", (INNER, HIDDEN)),
    "ffn_up": ("mlp.up_proj", (INNER, HIDDEN)),
    "ffn_down": ("mlp.down_proj", (HIDDEN, INNER)),
}
LLAMA = ATTENTION | {"ffn_norm": ("post_attention_layernorm", NORM)} | MLP
HEAD_NORMS = {
    "attn_q_norm": ("self_attn.q_norm", HEAD_NORM),
    "attn_k_norm": ("self_attn.k_norm", HEAD_NORM),
}
GEMMA2 = (
    ATTENTION
    | MLP
    | {
        "post_attention_norm": ("post_attention_layernorm", NORM),
        "ffn_norm": ("pre_feedforward_layernorm", NORM),
        "post_ffw_norm": ("post_feedforward_layernorm", NORM),
    }
)
PHI3 = {
    "attn_norm": ("input_layernorm", NORM),
    "attn_qkv": ("self_attn.qkv_proj", (Q[0] + 2 * K[0], HIDDEN)),
    "attn_output": ("self_attn.o_proj", (HIDDEN, HEADS * HEAD_DIM)),
    "ffn_norm": ("post_attention_layernorm", NORM),
    "ffn_up": ("mlp.gate_up_proj", (2 * INNER, HIDDEN)),
    "ffn_down": ("mlp.down_proj", (HIDDEN, INNER)),
}


def experts(names):
    """The modules of a mixture of experts. `names` are those of router, gate, up and down."""
    router, gate, up, down = names
    return {name: module for name, module in LLAMA.items() if name not in MLP} | {
        "ffn_gate_inp": (router, (EXPERTS, HIDDEN)),
        "ffn_gate_exps": (gate, (EXPERTS, INNER, HIDDEN)),
        "ffn_up_exps": (up, (EXPERTS, INNER, HIDDEN)),
        "ffn_down_exps": (down, (EXPERTS, HIDDEN, INNER)),
    }


MIXTRAL = experts(
    ("block_sparse_moe.gate", *(f"block_sparse_moe.experts.{{}}.{w}" for w in ("w1", "w3", "w2")))
)
QWEN3_MOE = HEAD_NORMS | experts(
    ("mlp.gate", *(f"mlp.experts.{{}}.{part}_proj" for part in ("gate", "up", "down")))
)
GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True}

FAMILIES = {
    "llama": ("llama", LLAMA, {}, {}),
    "llama with biases": ("llama", LLAMA, {"attention_bias": True}, {}),
    "mixtral": (
        "llama",
        MIXTRAL,
        {"model_type": "mixtral", "num_local_experts": EXPERTS, "num_experts_per_tok": 2},
        {"expert_count": EXPERTS, "expert_used_count": 2},
    ),
    "qwen2": ("qwen2", LLAMA, {}, {}),
    "qwen3": ("qwen3", LLAMA | HEAD_NORMS, {}, HEAD_KEYS),
    "qwen3moe": (
        "qwen3moe",
        QWEN3_MOE,
        {
            "model_type": "qwen3_moe",
            "num_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": INNER,
            "norm_topk_prob": True,
        },
        HEAD_KEYS
        | {"expert_count": EXPERTS, "expert_used_count": 2, "expert_feed_forward_length": INNER},
    ),
    "gemma": ("gemma", LLAMA, GEMMA, HEAD_KEYS),
    "gemma2": (
        "gemma2",
        GEMMA2,
        GEMMA
        | {
            "query_pre_attn_scalar": HEAD_DIM,
            "sliding_window": 32,
            "attn_logit_softcapping": 20.0,
            "final_logit_softcapping": 10.0,
        },
        HEAD_KEYS
        | {
            "attention.sliding_window": 32,
            "attn_logit_softcapping": 20.0,
            "final_logit_softcapping": 10.0,
        },
    ),
    "gemma3": (
        "gemma3",
        GEMMA2 | HEAD_NORMS,
        GEMMA
        | {
            "model_type": "gemma3_text",
            "query_pre_attn_scalar": HEAD_DIM,
            "sliding_window": 32,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        HEAD_KEYS
        | {
            "attention.sliding_window": 32,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
    ),
    "phi3": (
        "phi3",
        PHI3,
        {"partial_rotary_factor": 0.5, "sliding_window": 100},
        {"rope.dimension_count": HEAD_DIM // 2, "attention.sliding_window": 100},
    ),
}
"""By name: the architecture in the file, the modules of a layer, and the fields and keys that
differ from `SIZES` and `KEYS`.
"""


def write_twins(folder, name, *, seed=1, kinds=KINDS, changes=None):
    """Write `folder`/model.gguf, and `folder`/twin with the same weights in float32."""
    architecture, modules, fields, own_keys = FAMILIES[name]
    is_tied = fields.get("tie_word_embeddings", False)
    config = {"model_type": architecture, "tie_word_embeddings": is_tied} | SIZES | fields
    random = np.random.default_rng(seed)
    tensors, weights = {}, {}
    listed = _listed(modules, architecture, is_tied, config)
    for number, (stored, full_name, shape) in enumerate(listed):
        kind = kinds[number % len(kinds)] if len(shape) > 1 else "F32"
        data, values = _draw(kind, shape, random)
        tensors[stored] = Tensor(kind, shape, data)
        _add_twin(weights, architecture, stored, full_name, values)
    twin = folder / "twin"
    twin.mkdir()
    (twin / "config.json").write_text(json.dumps(config))
    save_file(weights, twin / "model.safetensors")
    tokenizer = write_tokenizer(twin, vocab_size=VOCAB)
    keys = {"general.architecture": architecture, "general.name": "tiny"}
    keys |= {f"{architecture}.{key}": item for key, item in (KEYS | own_keys).items()}
    keys |= tokenizer_keys(twin) | (changes or {})
    assert tokenizer.get_vocab_size() == VOCAB
    return GgufFile(keys, tensors).write(folder / "model.gguf"), twin


def tokenizer_keys(folder):
    """The metadata of the byte-level tokenizer in a folder."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    special = {token["id"] for token in tokenizer["added_tokens"]}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": sorted(vocabulary, key=vocabulary.get),
        "tokenizer.ggml.token_type": [3 if number in special else 1 for number in range(VOCAB)],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in tokenizer["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
    }


def _listed(modules, architecture, is_tied, config):
    """Yield (name in the file, name in the folder, shape) of every tensor."""
    yield "token_embd.weight", "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for layer in range(LAYERS):
        for module, (name, shape) in modules.items():
            yield f"blk.{layer}.{module}.weight", f"model.layers.{layer}.{name}.weight", shape
            has_bias = config.get("attention_bias") and module.startswith("attn_")
            if (has_bias and len(shape) > 1) or (
                architecture == "qwen2" and module in ("attn_q", "attn_k", "attn_v")
            ):
                full_name = f"model.layers.{layer}.{name}.bias"
                yield f"blk.{layer}.{module}.bias", full_name, shape[:1]
    yield "output_norm.weight", "model.norm.weight", NORM
    if not is_tied:
        yield "output.weight", "lm_head.weight", (VOCAB, HIDDEN)


def _draw(kind, shape, random):
    """The bytes of a tensor, and its values in float32."""
    if kind in DECODERS:
        data, values = random_rows(kind, (int(np.prod(shape[:-1])), shape[-1]), random)
        return data, values.reshape(shape)
    values = (random.normal(size=shape) * 0.15 + (len(shape) == 1)).astype(np.float32)
    if kind == "F16":
        half = values.astype("<f2")
        return half.tobytes(), half.astype(np.float32)
    if kind == "BF16":
        bits = (values.view(np.uint32) >> 16).astype("<u2")
        return bits.tobytes(), (bits.astype(np.uint32) << 16).view(np.float32)
    return values.tobytes(), values


def _add_twin(weights, architecture, stored, full_name, values):
    """Add the weights under the name and in the layout of Hugging Face."""
    if architecture == "llama" and (".attn_q." in stored or ".attn_k." in stored):
        values = _halves(values)
    if architecture.startswith("gemma") and stored.endswith("norm.weight"):
        values = values - np.float32(1)
    if "{}" not in full_name:
        weights[full_name] = values
        return
    for expert, own in enumerate(values):
        weights[full_name.format(expert)] = np.ascontiguousarray(own)


def _halves(values):
    """Rows 0, 2, 4, … of each head become its first half, and rows 1, 3, 5, … its second half."""
    moved = np.empty_like(values)
    for row in range(len(values)):
        head, place = divmod(row, HEAD_DIM)
        moved[head * HEAD_DIM + place // 2 + (place % 2) * HEAD_DIM // 2] = values[row]
    return moved
