"""Our tokenizer is that of `transformers.AutoTokenizer` for the files of published models."""

import json

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.core.text.tokenizer_folders import FOLDERS, SPLIT_FOLDERS
from tests.core.text.tokenizer_layouts import ENCODERS
from tgi.errors import ModelError
from tgi.text import Tokenizer

TEXTS = [
    "",
    "Hello world",
    " hello  world ",
    "It's 1234567890 o'clock, isn't it?\n\n  Yes.\t",
    "Größe, naïve, u\u0308ber, 東京 🙂🙃, Привет",
    "def main():\n    return [3.14, 'a']\n\n\n",
    "<s>a</s> <|endoftext|>b<|im_start|>user\nc<|im_end|>\n",
    "<think>1</think> <|end|> x <|user|>y <extra_id_3> <bos>z<eos> [INST] i [/INST]",
    "<tool_call>{}</tool_call><|vision_start|>[MASK] <|reg0|>    <pad>",
    "<\uff5cUser\uff5c>hi<\uff5cAssistant\uff5c> <|START_OF_TURN_TOKEN|>",
    "<fim_prefix>f >>TITLE<< [BOS] <|reg1|>",
]
LAYOUTS = [
    *((layout, f"{layout.name}") for layout in FOLDERS),
    *((layout, f"{layout.name} without tokenizer.json") for layout in SPLIT_FOLDERS),
]


@pytest.fixture(params=[layout for layout, _ in LAYOUTS], ids=[name for _, name in LAYOUTS])
def layout(request):
    return request.param


def eos_in_files(folder):
    """The EOS ids that the JSON files contain."""
    for name in ("generation_config.json", "config.json"):
        if (folder / name).exists():
            value = json.loads((folder / name).read_text()).get("eos_token_id")
            yield from value if isinstance(value, list) else [value]


@pytest.mark.filterwarnings("ignore")
def test_ids_texts_and_eos_are_those_of_transformers(layout, tmp_path):
    folder = layout.write(tmp_path)
    reader = PreTrainedTokenizerFast if layout.has_own_pipeline else AutoTokenizer
    ours, theirs = Tokenizer.load(folder), reader.from_pretrained(folder)
    for text in TEXTS:
        for special in (True, False):
            expected = theirs(text, add_special_tokens=special)["input_ids"]
            ids = ours.encode(text, special).ids
            assert ids == expected, (text, special, theirs.convert_ids_to_tokens(expected))
            for skip in (True, False):
                decoded = theirs.decode(
                    ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
                )
                assert ours.decode(ids, skip) == decoded, (text, skip)
    eos = {theirs.eos_token_id, *eos_in_files(folder)} - {None}
    assert set(ours.eos_token_ids) == eos
    assert set(theirs.all_special_ids) <= ours.special_ids
    assert ours.notices == ()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("encoder", ENCODERS, ids=[layout.name for layout in ENCODERS])
def test_ids_of_encoders_are_those_of_transformers(encoder, tmp_path):
    folder = encoder.write(tmp_path)
    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        for special in (True, False):
            expected = theirs(text, add_special_tokens=special)["input_ids"]
            assert ours.encode(text, special).ids == expected, text


def test_the_layouts_are_many():
    assert len({layout.name for layout in FOLDERS}) >= 25
    assert sum(layout.has_own_pipeline for layout in FOLDERS) == 1


@pytest.mark.parametrize(
    ("config", "tokenizer_config", "owner"),
    [
        ({"model_type": "llama"}, {"tokenizer_class": "LlamaTokenizerFast"}, "`LlamaTokenizer`"),
        ({"model_type": "t5"}, {}, "a `t5` model"),
        ({"model_type": "opt"}, {"tokenizer_class": "BertTokenizer"}, "`BertTokenizer`"),
        ({"tokenizer_class": "XLMRobertaTokenizer"}, {}, "`XLMRobertaTokenizer`"),
        ({"model_type": "gpt2"}, {"tokenizer_class": 7}, "a `gpt2` model"),
    ],
)
def test_an_unknown_class_is_not_built_from_a_vocabulary(tmp_path, config, tokenizer_config, owner):
    SPLIT_FOLDERS[0].write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    message = f"no tokenizer.json, and the tokenizer of .*{owner} cannot be built from vocab.json"
    with pytest.raises(ModelError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert "Save the tokenizer as tokenizer.json" in str(caught.value)


def test_a_special_token_without_an_id_is_reported(tmp_path):
    layout = next(layout for layout in FOLDERS if layout.name == "stablelm-2")
    layout.write(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mask_token": "[MISSING]"}))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.notices == (
        "The files of the tokenizer name special tokens that have no id: `mask_token`"
        " (`[MISSING]`). As in transformers, they get the next free ids. If the model does not know"
        " these tokens, remove their fields from tokenizer_config.json.",
    )


def test_a_token_with_another_id_than_in_the_files_is_reported(tmp_path):
    layout = next(layout for layout in FOLDERS if layout.name == "stablelm-2")
    layout.write(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["added_tokens_decoder"]["5000"] = {"content": "<|far|>", "special": True}
    path.write_text(json.dumps(config))
    tokenizer = Tokenizer.load(tmp_path)
    actual = tokenizer.backend.token_to_id("<|far|>")
    [notice] = tokenizer.notices
    assert f"`<|far|>` (id {actual} instead of 5000)" in notice


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config", {"added_tokens_decoder": {"x": {"content": "a"}}}),
        ("added_tokens", {"<a>": "x"}),
        ("added_tokens", {"<a>": None}),
    ],
)
def test_a_token_without_a_number_is_one_sentence(tmp_path, name, content):
    layout = next(layout for layout in FOLDERS if layout.name == "gpt-2")
    layout.write(tmp_path)
    (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="the tokens that the files name cannot be read") as error:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(error.value)
