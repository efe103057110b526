"""Real GGUF files on the CPU: SmolLM2-135M-Instruct in Q4_1, and Gemma 3 270M in Q4_K_M.

`make test-long` downloads the files. `llama_cpp_token_ids.json` contains the ids of some texts by
`llama_tokenize` of llama.cpp (`llama-cpp-python` 0.3.36), with special tokens.
"""

import json
from pathlib import Path

import httpx
import pytest

from tests.live_server import running_server
from tgi.checkpoints.gguf.model_folder import gguf_model_folder
from tgi.text import Tokenizer

FOLDER = Path(__file__).parents[2] / ".real-weights"
SMOLLM2, GEMMA = "SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"
EXPECTED = json.loads(Path(__file__).with_name("llama_cpp_token_ids.json").read_text("utf-8"))
PROMPTS = ("The capital of France is", "def fibonacci(n):\n", "Water boils at")

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (FOLDER / GEMMA).exists(), reason="make test-long downloads the files"),
]


@pytest.mark.parametrize("name", [SMOLLM2, GEMMA])
def test_prompts_have_the_token_ids_of_llama_cpp(tmp_path, name):
    tokenizer = Tokenizer.load(gguf_model_folder(FOLDER / name, str(tmp_path)))
    assert [tokenizer.encode(text).ids for text in EXPECTED["texts"]] == EXPECTED[name]


def greedy(model, log):
    """The ids of 32 tokens after each prompt."""
    with running_server(model, "cpu", log) as server:
        bodies = (
            {"inputs": text, "parameters": {"max_new_tokens": 32, "details": True}}
            for text in PROMPTS
        )
        responses = [
            httpx.post(f"{server.url}/generate", json=body, timeout=300).json() for body in bodies
        ]
    return [[token["id"] for token in item["details"]["tokens"]] for item in responses]


def test_the_file_gives_the_tokens_of_the_dequantized_model(tmp_path):
    """transformers dequantized the weights of the folder, and rounded them to bfloat16."""
    ids = greedy(FOLDER / SMOLLM2, tmp_path / "file.log")
    assert ids == greedy(FOLDER / "smollm2", tmp_path / "folder.log")


def test_a_conversation_with_the_template_of_the_file(tmp_path):
    question = {"role": "user", "content": "What is the capital of France?"}
    with running_server(FOLDER / SMOLLM2, "cpu", tmp_path / "log") as server:
        body = {"model": "m", "messages": [question], "max_tokens": 30, "temperature": 0}
        url = f"{server.url}/v1/chat/completions"
        response = httpx.post(url, json=body, timeout=300).json()
    [choice] = response["choices"]
    assert "Paris" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    assert response["usage"]["prompt_tokens"] == 37  # as in llama.cpp


def test_gemma_completes_a_text(tmp_path):
    with running_server(FOLDER / GEMMA, "cpu", tmp_path / "log") as server:
        body = {"inputs": PROMPTS[2], "parameters": {"max_new_tokens": 8}}
        response = httpx.post(f"{server.url}/generate", json=body, timeout=300).json()
    assert response["generated_text"].startswith(" 100 degrees Celsius.")
