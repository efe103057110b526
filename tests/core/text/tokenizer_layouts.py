"""Writes the tokenizer files of a published model, with a small vocabulary."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from tokenizers import Tokenizer, normalizers, processors

from tests.core.text import tokenizer_parts as parts
from tests.core.text.tokenizer_parts import byte_level, byte_level_words, with_template, with_tokens

END = "<|endoftext|>"
CHATML = ["<|im_start|>", "<|im_end|>"]


@dataclass(frozen=True)
class Layout:
    """The files of one published model.

    If `is_split` is set, the model has vocab.json and merges.txt instead of tokenizer.json. If
    `lists_tokens` is set, `added_tokens_decoder` is written to tokenizer_config.json, with the
    tokens of the tokenizer and those of `late`, which are in no other file. `eos` contains the
    token texts that generation_config.json and config.json name.

    `has_own_pipeline` is set if the class in transformers 5 ignores the normalizer and the
    pre-tokenizer in tokenizer.json. Such a layout is compared with tokenizer.json as it is, which
    is how transformers 4 and TGI 3 read it.
    """

    name: str
    model_type: str
    build: Callable[[], Tokenizer]
    config: dict = field(default_factory=dict)  # tokenizer_config.json
    eos: dict = field(default_factory=dict)  # file → a text or a list of texts
    files: dict = field(default_factory=dict)  # other JSON files
    late: tuple = ()
    lists_tokens: bool = True
    is_split: bool = False
    has_own_pipeline: bool = False

    def write(self, folder):
        """Write the files to `folder`."""
        tokenizer = self.build()
        config = dict(self.config)
        if self.lists_tokens:
            config["added_tokens_decoder"] = listed_tokens(tokenizer, self.late)
        if self.is_split:
            tokenizer.model.save(str(folder))
        else:
            tokenizer.save(str(folder / "tokenizer.json"))
        files = {"tokenizer_config": config, "config": {"model_type": self.model_type}}
        size = tokenizer.get_vocab_size()
        ids = tokenizer.get_vocab() | {text: size + place for place, text in enumerate(self.late)}
        for name, texts in self.eos.items():
            numbers = ids[texts] if isinstance(texts, str) else [ids[text] for text in texts]
            files.setdefault(name, {})["eos_token_id"] = numbers
        for name, content in (files | self.files).items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        return folder


def listed_tokens(tokenizer, late):
    """The object `added_tokens_decoder`, with the tokens of `late` after all others."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    entries = {
        str(number): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for number, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    size = tokenizer.get_vocab_size()
    for place, text in enumerate(late):
        entries[str(size + place)] = {"content": text, **flags, "special": not text[1:2].isalpha()}
    return entries


def named(bos=None, eos=None, unk=None, pad=None, **others):
    """The named tokens of tokenizer_config.json, with its usual keys."""
    tokens = {"bos_token": bos, "eos_token": eos, "unk_token": unk, "pad_token": pad}
    return {"clean_up_tokenization_spaces": False, "model_max_length": 4096} | tokens | others


def llama_config(**others):
    return named(
        "<s>",
        "</s>",
        "<unk>",
        add_bos_token=True,
        add_eos_token=False,
        sp_model_kwargs={},
        tokenizer_class="LlamaTokenizer",
        **others,
    )


def llama3():
    tokenizer = byte_level(byte_level_words(parts.LLAMA3), ())
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]
    return with_template(with_tokens(tokenizer, special), special[:1], is_byte_level=True)


def qwen():
    tokenizer = byte_level(byte_level_words(parts.QWEN2), (), normalizer=normalizers.NFC())
    tokenizer = with_tokens(tokenizer, [END, *CHATML], ["<tool_call>", "</tool_call>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def phi3():
    tokenizer = parts.llama2(["<unk>", "<s>", "</s>"])
    return with_tokens(tokenizer, [END, "<|assistant|>", "<|end|>", "<|user|>"], rstrip=True)


def gpt2():
    tokenizer = byte_level(byte_level_words(), [END])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def opt():
    return byte_level(byte_level_words(), ["<s>", "<pad>", "</s>", "<unk>"])


def gpt_neox():
    tokenizer = byte_level(byte_level_words(), [END, "<|padding|>"], normalizer=normalizers.NFC())
    tokenizer = with_tokens(tokenizer, ordinary=["  ", "    ", "        "])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def cohere():
    special = ["<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<BOS_TOKEN>", "<EOS_TOKEN>"]
    turns = ["<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"]
    tokenizer = byte_level(parts.digits_apart(), [*special, *turns], normalizer=normalizers.NFC())
    return with_template(tokenizer, ["<BOS_TOKEN>"])


def deepseek():
    tokenizer = byte_level(parts.deepseek_words(), ())
    special = ["<\uff5cbegin▁of▁sentence\uff5c>", "<\uff5cend▁of▁sentence\uff5c>"]
    tokenizer = with_tokens(tokenizer, special, ["<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"])
    return with_template(tokenizer, special[:1], is_byte_level=True)


def glm4():
    tokenizer = byte_level(byte_level_words(parts.LLAMA3), ())
    special = [END, "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<|system|>", "<|user|>"]
    return with_template(with_tokens(tokenizer, special), ["[gMASK]", "<sop>"], is_byte_level=True)


def nemotron():
    tokenizer = byte_level(byte_level_words(parts.NEMOTRON), ["<unk>", "<s>", "</s>", "[INST]"])
    return with_template(tokenizer, ["<s>"], is_byte_level=True)


def modernbert():
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tokenizer = with_tokens(
        byte_level(byte_level_words(), (), normalizer=normalizers.NFC()), special
    )
    return with_template(tokenizer, ["[CLS]"], ["[SEP]"])


def with_end(words, special=(END,), ordinary=(), normalizer=None):
    """A byte-level tokenizer that begins with special tokens and adds none to a text."""

    def build():
        vocabulary = byte_level(words(), special, normalizer=normalizer)
        tokenizer = with_tokens(vocabulary, ordinary=ordinary)
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        return tokenizer

    return build


OPT_TOKEN = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False}
OPT_TOKEN |= {"single_word": False}
OPT_CONFIG = {
    "errors": "replace",
    "unk_token": OPT_TOKEN | {"content": "</s>"},
    "bos_token": OPT_TOKEN | {"content": "</s>"},
    "eos_token": OPT_TOKEN | {"content": "</s>"},
    "pad_token": OPT_TOKEN | {"content": "<pad>"},
    "add_prefix_space": False,
    "add_bos_token": True,
    "special_tokens_map_file": None,
    "tokenizer_class": "GPT2Tokenizer",
}

START = "<|startoftext|>"
TRANSCRIPT = [END, "<|startoftranscript|>", "<|en|>", "<|notimestamps|>"]

ENCODERS = (
    Layout(
        "clip",
        "clip",
        lambda: byte_level(byte_level_words(), [START, END], size=600, word_suffix="</w>"),
        {"tokenizer_class": "CLIPTokenizer"},
        lists_tokens=False,
        is_split=True,
    ),
    Layout(
        "whisper",
        "whisper",
        lambda: byte_level(byte_level_words(), TRANSCRIPT),
        named(END, END, END, tokenizer_class="WhisperTokenizer"),
        lists_tokens=False,
        is_split=True,
    ),
)
"""Models that do not generate text from text. Only their ids are compared."""
