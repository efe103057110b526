"""The training text of the demo model: it is reproducible and contains no held-out prompt."""

import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jinja2
import pytest

from tools.train_demo.chat_format import CHAT_TEMPLATE, segments
from tools.train_demo.held_out import held_out, prompts
from tools.train_demo.text import exercises
from tools.train_demo.text.generator import conversation, conversations
from tools.train_demo.text.tgi_facts import FACTS
from tools.train_demo.text.tgi_frames import CLAUSE_FRAMES, GOAL_FRAMES, TOPIC_FRAMES
from tools.train_demo.text.wording import choose, normalise

ROOT = Path(__file__).parents[3]
SAMPLE = 4000


@pytest.fixture(scope="module")
def sample():
    return list(conversations(7, 0, SAMPLE))


def test_same_seed_same_text_in_every_process():
    program = (
        "from tools.train_demo.text.generator import conversations; print(list(conversations(7, 0,"
        " 300)))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) > 10_000


def test_seed_and_index_change_the_text():
    assert conversation(7, 0) != conversation(7, 1)
    assert conversation(7, 0) != conversation(8, 0)


def test_a_conversation_depends_only_on_seed_and_index(sample):
    assert conversation(7, 1234) == sample[1234]


def test_enough_prompts_are_held_out():
    questions = [tuple(message["content"] for message in prompt.messages) for prompt in prompts()]
    assert len(set(questions)) == len(questions) >= 150


def test_no_held_out_question_is_generated(sample):
    known = [f" {normalise(prompt.messages[-1]['content'])} " for prompt in prompts()]
    for drawn in sample:
        for message in drawn.messages:
            if message["role"] == "user":
                said = f" {normalise(message['content'])} "
                assert not any(question in said for question in known), message["content"]


def test_held_out_questions_are_recognised_in_longer_text():
    for prompt in prompts():
        question = prompt.messages[-1]["content"]
        assert held_out().has_question(question)
        assert held_out().has_question(f"Hi!  {question.upper()} Thanks.")
    assert not held_out().has_question("What is tgi?")


@pytest.mark.parametrize("index", range(len(FACTS)))
def test_wordings_of_the_facts_are_not_held_out(index):
    # The generator filters out held-out questions. This checks the templates without the filter.
    rng = random.Random(index)
    for template in FACTS[index].questions:
        for _ in range(10):
            assert not held_out().has_question(choose(template, rng))
    for frame in TOPIC_FRAMES:
        for _ in range(10):
            assert not held_out().has_question(choose(frame.replace("@", FACTS[index].topic), rng))


def test_every_fact_has_its_topics():
    assert len(FACTS) > 60
    assert all(fact.topic for fact in FACTS)


def test_held_out_sums_are_not_exercised():
    rng = random.Random(3)
    pairs = {
        tuple(map(int, re.findall(r"\d+", exercises.addition(rng)[1])[-3:-1])) for _ in range(4000)
    }
    held = {tuple(prompt.excluded["pair"]) for prompt in prompts() if prompt.group == "sums"}
    assert len(held) == 32
    assert not pairs & (held | {(b, a) for a, b in held})
    assert len(pairs) > 3000


def test_held_out_words_and_lists_are_not_exercised():
    rng = random.Random(3)
    words = {prompt.excluded["word"] for prompt in prompts() if prompt.group == "letters"}
    spoken = [question for question, _ in (exercises.letters(rng) for _ in range(2000))]
    assert len(words) == 20
    assert not words & {word for question in spoken for word in re.findall(r"[a-z]+", question)}
    lists = {
        frozenset(map(str, prompt.excluded["items"]))
        for prompt in prompts()
        if "items" in prompt.excluded
    }
    answers = [re.split(", so |: ", exercises.sorting(rng)[1].rstrip("."))[-1] for _ in range(2000)]
    drawn = {frozenset(re.findall(r"\w+", answer)) for answer in answers}
    assert not lists & drawn


def test_sorted_lists_are_sorted():
    rng = random.Random(5)
    lengths = Counter()
    for question, answer in (exercises.sorting(rng) for _ in range(1000)):
        for part in answer.split(", so "):
            numbers = list(map(int, re.findall(r"\d+", part)))
            assert numbers in (sorted(numbers), sorted(numbers, reverse=True))
            assert set(numbers) <= set(map(int, re.findall(r"\d+", question)))
            lengths[len(numbers)] += 1
        if ": " in answer:
            initials, words = (re.findall("[A-Za-z]+", part) for part in answer.split(": "))
            assert initials == [word[0] for word in words]
            assert words == sorted(words)
    assert lengths[5] > 20 < lengths[0]


def test_goals_and_situations_are_not_held_out():
    rng = random.Random(5)
    for fact in FACTS:
        assert fact.situations
        assert fact.requests
        for frame, phrases in [(frame, fact.goals) for frame in GOAL_FRAMES] + [
            (frame, fact.clauses) for frame in CLAUSE_FRAMES
        ]:
            assert not held_out().has_question(choose(frame.replace("@", phrases), rng))
        for template in (*fact.situations, *fact.requests):
            drawn = [choose(template, rng) for _ in range(10)]
            assert not any(
                held_out().has_question(question) or set("{}|") & set(question)
                for question in drawn
            )


def test_answers_of_exercises_are_correct():
    rng = random.Random(5)
    for _ in range(500):
        question, answer = exercises.addition(rng)
        parts = re.findall(r"(\d+) \+ (\d+) = (\d+)", answer)
        assert len(parts) in {1, 3}
        assert all(int(a) + int(b) == int(total) for a, b, total in parts)
        assert set(parts[-1][:2]) == set(re.findall(r"\d+", question))
        question, answer = exercises.letters(rng)
        letters, _, result = answer.rstrip(".").rpartition(": ")
        word = "".join(re.findall("[a-z]", letters))
        if "letters" in result:
            assert word in question
            assert result == f"{word} has {len(word)} letters"
            assert re.findall(r"\d+", letters) == [str(number + 1) for number in range(len(word))]
        elif "occurs" in result:
            assert word in question
            assert re.findall(r"\d+", letters) == [
                str(number + 1) for number in range(word.count(result[0]))
            ]
            assert f" {word.count(result[0])} time" in result
        elif "is spelled" in answer:
            word, _, letters = result.partition(" is spelled ")
            assert word == letters.replace("-", "")
            assert word in question
        elif "backwards" in answer:
            assert answer.split(" ")[0].replace("-", "") == result[::-1]


def test_segments_join_to_the_rendered_template(sample):
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATE)
    checked = 0
    for drawn in sample[:600]:
        text = "".join(part for part, _ in segments(drawn))
        if drawn.raw:
            assert text.startswith(drawn.messages[0]["content"] + "\n")
            continue
        assert text + "\n" == template.render(
            messages=drawn.messages, tools=drawn.tools, add_generation_prompt=False
        )
        prompt = template.render(
            messages=drawn.messages[:-1], tools=drawn.tools, add_generation_prompt=True
        )
        assert text.startswith(prompt)
        assert text[len(prompt) :] == segments(drawn)[-1][0]
        assert segments(drawn)[-1][1]
        checked += drawn.tools is not None
    assert checked > 20
