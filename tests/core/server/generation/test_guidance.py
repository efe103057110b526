"""The guidance of requests: compilation in threads, its cache, and errors."""

import asyncio
import threading

import msgspec
import pytest

from tests.core.server.fake_engine import FakeEngine
from tgi.errors import ValidationError
from tgi.grammar.constraint import Constraint, GrammarError
from tgi.server.generation.guidance import CompiledGrammars, GuidanceCompiler
from tgi.server.generation.parameters import (
    GenerateParameters,
    Grammar,
    StopStyle,
    TextRequest,
)
from tgi.text.grammar_vocabulary import PreparedVocabulary
from tgi.text.output import OutputStyle, ReasoningFormat
from tgi.types import Guidance, ReasoningLimits

REGEX = Constraint("regex", "a+")


class CountedSteps:
    """Steps that count their calls. A constraint whose value is in `invalid` is rejected. The
    compilation waits until `may_continue` is set.
    """

    def __init__(self, invalid=(), reason=None):
        self.invalid = set(invalid)
        self.reason = reason  # why the tokenizer does not allow guidance
        self.compiled = []
        self.num_vocabularies = 0
        self.threads = set()
        self.may_continue = threading.Event()
        self.may_continue.set()

    def compile(self, constraint, vocabulary):
        assert vocabulary == "vocabulary"
        assert self.may_continue.wait(30)
        self.threads.add(threading.current_thread())
        self.compiled.append(constraint)
        if isinstance(constraint, Constraint) and constraint.value in self.invalid:
            raise GrammarError(f"{constraint.value} is bad")
        value = constraint.value
        return f"grammar of {value if isinstance(value, str) else bytes(value)}"

    def get(self):
        """The vocabulary, as `VocabularyReader.get`."""
        self.num_vocabularies += 1
        if self.reason is not None:
            raise GrammarError(self.reason)
        return PreparedVocabulary("data", "vocabulary")


@pytest.fixture
def make_compiler():
    def make(**fields):
        engine, steps = FakeEngine(), CountedSteps(**fields)
        return GuidanceCompiler(engine, steps, steps), engine, steps

    return make


def request(constraint=REGEX, **fields):
    parameters = fields.pop("parameters", GenerateParameters())
    return TextRequest("hi", parameters, StopStyle.OPENAI, constraint=constraint, **fields)


async def test_a_repeated_constraint_is_compiled_once(make_compiler):
    compiler, engine, steps = make_compiler()
    found = [await compiler.guidance(request()) for _ in range(3)]
    assert found == [Guidance("grammar of a+")] * 3
    assert steps.compiled == [REGEX]
    assert (steps.num_vocabularies, engine.vocabularies) == (1, ["data"])
    assert threading.main_thread() not in steps.threads


async def test_concurrent_requests_share_a_compilation(make_compiler):
    compiler, engine, steps = make_compiler()
    steps.may_continue.clear()
    tasks = [asyncio.create_task(compiler.guidance(request())) for _ in range(5)]
    await asyncio.sleep(0.05)
    tasks[0].cancel()  # The client that came first disconnects.
    steps.may_continue.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [Guidance("grammar of a+")] * 4
    assert len(steps.compiled) == 1
    assert engine.vocabularies == ["data"]


async def test_an_unread_error_of_a_compilation_is_not_logged(make_compiler, caplog):
    compiler, _, steps = make_compiler(invalid=["a+"])
    steps.may_continue.clear()
    task = asyncio.create_task(compiler.guidance(request()))
    await asyncio.sleep(0.05)
    task.cancel()
    steps.may_continue.set()
    while not steps.compiled:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert caplog.records == []


async def test_an_invalid_constraint_is_compiled_once(make_compiler):
    compiler, _, steps = make_compiler(invalid=["a+"])
    for _ in range(2):
        with pytest.raises(ValidationError, match=r"^grammar is not valid: a\+ is bad$"):
            await compiler.guidance(request())
    assert len(steps.compiled) == 1
    with pytest.raises(ValidationError, match=r"^`guided_regex` is not valid: a\+ is bad$"):
        await compiler.guidance(request(constraint_field="guided_regex"))


async def test_a_grammar_of_tgi_is_compiled_by_its_text(make_compiler):
    compiler, _, steps = make_compiler()
    parameters = GenerateParameters(grammar=Grammar("regex", msgspec.Raw(b'"b"')))
    for _ in range(2):
        found = await compiler.guidance(request(None, parameters=parameters))
        assert found == Guidance("grammar of b'\"b\"'")
    assert len(steps.compiled) == 1


async def test_a_request_without_constraint_reads_no_vocabulary(make_compiler):
    compiler, engine, steps = make_compiler()
    assert await compiler.guidance(request(None)) is None
    assert (steps.num_vocabularies, engine.vocabularies) == (0, [])


async def test_a_tokenizer_without_guidance_is_reported_by_name(make_compiler):
    compiler, engine, _ = make_compiler(reason="its texts change")
    text = r"^`{}` is not supported with the tokenizer of this model: its texts change$"
    for _ in range(2):
        with pytest.raises(ValidationError, match=text.format("response_format")):
            await compiler.guidance(request(constraint_field="response_format"))
    with pytest.raises(ValidationError, match=text.format("thinking")):
        await compiler.guidance(request(None, max_reasoning_tokens=3, reasoning_field="thinking"))
    assert engine.vocabularies == []
    assert await compiler.guidance(request(is_constraint_optional=True)) is None


async def test_the_weaker_constraint_is_used_if_the_exact_one_is_invalid(make_compiler):
    compiler, _, _ = make_compiler(invalid=["exact", "loose"])
    exact, loose = Constraint("lark", "exact"), Constraint("lark", "loose")
    valid = Constraint("lark", "valid")
    assert await compiler.guidance(request(exact, loose_constraint=valid)) == Guidance(
        "grammar of valid"
    )
    with pytest.raises(ValidationError, match="loose is bad"):
        await compiler.guidance(request(exact, loose_constraint=loose))
    found = await compiler.guidance(
        request(exact, loose_constraint=loose, is_constraint_optional=True)
    )
    assert found is None


@pytest.mark.parametrize(
    ("constraint", "limit", "grammar", "max_tokens"),
    [(REGEX, None, "grammar of a+", -1), (None, 7, "", 7), (REGEX, 0, "grammar of a+", 0)],
)
@pytest.mark.parametrize("is_open", [True, False])
async def test_the_reasoning_is_part_of_the_guidance(
    make_compiler, constraint, limit, grammar, max_tokens, is_open
):
    compiler, _, _ = make_compiler()
    style = OutputStyle(ReasoningFormat("x", "<a>", "</a>"), is_reasoning_open=is_open)
    found = await compiler.guidance(
        request(constraint, output_style=style, max_reasoning_tokens=limit)
    )
    assert found == Guidance(grammar, ReasoningLimits("<a>", "</a>", is_open, max_tokens))


def test_the_least_recently_used_grammars_are_removed():
    grammars = CompiledGrammars(max_grammars=2, max_characters=10)
    grammars.add(b"a", "1")
    grammars.add(b"b", "2")
    assert grammars.find(b"a") == "1"
    grammars.add(b"c", "3")
    assert (grammars.find(b"a"), grammars.find(b"b"), grammars.find(b"c")) == ("1", None, "3")
    grammars.add(b"d", "4" * 10)
    assert (len(grammars), grammars.find(b"d")) == (1, "4" * 10)
    grammars.add(b"e", "5" * 11)
    assert len(grammars) == 0
    grammars.add(b"f", GrammarError("no"))
    with pytest.raises(GrammarError, match="no"):
        grammars.find(b"f")
