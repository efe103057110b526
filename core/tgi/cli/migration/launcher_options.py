"""Reads the options of a command that starts TGI 3. A value that the shell expands is kept
unchanged, and every other value is checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from tgi.cli.migration.data import DROPPED_FLAGS, RENAMED_FLAGS
from tgi.cli.migration.words import Word
from tgi.config import OPTIONS, Option, ServeOptions, UsageError, parse_arguments

__all__ = ["LauncherOptions", "option_words", "read_options"]

_BY_FLAG = {row.flag: row for row in OPTIONS} | {row.short: row for row in OPTIONS if row.short}
_BY_NAME = {row.name: row for row in OPTIONS}
_TOKENIZER_FLAGS = ("--tokenizer-name", "-t")


@final
@dataclass(frozen=True)
class LauncherOptions:
    """The options of a command that starts TGI 3.

    `words` maps the name of each given option to its values. `known` contains the values that the
    shell does not expand. `variables` contains the boolean options whose value the shell expands.
    These options stay environment variables. `passed` contains arguments that are a variable, such
    as `$ARGS`.
    """

    words: Mapping[str, tuple[Word, ...]]
    known: ServeOptions
    variables: Mapping[str, Word]
    passed: tuple[Word, ...]
    notes: tuple[str, ...]

    def first(self, name: str) -> Word | None:
        """Return the first value of an option, or None if the option is not given."""
        return next(iter(self.words.get(name, ())), None)


def read_options(arguments: Sequence[Word], environment: Mapping[str, Word]) -> LauncherOptions:
    """Read the options. Raises `UsageError` if a flag is unknown or a known value is invalid."""
    notes: list[str] = []
    words, others = _split(arguments, notes)
    passed = _passed(others, words, "MODEL_ID" in environment, notes)
    variables: dict[str, Word] = {}
    for row in OPTIONS:
        if not row.environment or row.environment not in environment or row.name in words:
            continue
        value = environment[row.environment].quoted()
        if not row.takes_value and value.expansions:
            variables[row.environment] = environment[row.environment]
        else:
            words[row.name] = [value]
    arguments_of_known: list[str] = []
    environment_of_known: dict[str, str] = {}
    for name, values in words.items():
        row = _BY_NAME[name]
        texts = [value.literal for value in values]
        if any(text is None for text in texts):
            continue
        if row.environment in environment and not _is_flag(row, arguments):
            environment_of_known[row.environment] = str(texts[0])
        elif row.takes_value:
            arguments_of_known += [f"{row.flag}={text}" for text in texts]
        else:
            arguments_of_known.append(row.flag)
    known = parse_arguments(arguments_of_known, environment_of_known).options
    return LauncherOptions(
        {name: tuple(values) for name, values in words.items()},
        known,
        variables,
        tuple(passed),
        tuple(notes),
    )


def _is_flag(row: Option, arguments: Sequence[Word]) -> bool:
    return any(
        word.partition("=")[0].text == row.flag
        or (row.short and word.starts_with(row.short) and not word.starts_with("--"))
        for word in arguments
    )


def _split(arguments: Sequence[Word], notes: list[str]) -> tuple[dict[str, list[Word]], list[Word]]:
    """Return the values of each option, and the words that are neither flags nor values."""
    words: dict[str, list[Word]] = {}
    others: list[Word] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.starts_with("-"):
            others.append(word)
            continue
        flag, value = _flag_and_value(word)
        flag = RENAMED_FLAGS.get(flag, flag)
        if flag in _TOKENIZER_FLAGS and flag not in _BY_FLAG:
            words["model_id"] = [_value(flag, value, rest)]
            continue
        if flag in DROPPED_FLAGS:
            takes_value, reason = DROPPED_FLAGS[flag]
            if takes_value:
                _value(flag, value, rest)
            notes.append(f"`{flag}` has no effect: {reason}.")
            continue
        row = _BY_FLAG.get(flag)
        if row is None:
            raise UsageError(f"error: unexpected argument '{flag}' found.")
        word = _value(flag, value, rest) if row.takes_value else Word.of("true")
        if row.name in words and not (row.is_list and not row.separator):
            raise UsageError(f"error: the argument '{flag}' cannot be used multiple times.")
        words.setdefault(row.name, []).append(word)
    return words, others


def _passed(
    others: Sequence[Word], words: dict[str, list[Word]], has_model: bool, notes: list[str]
) -> list[Word]:
    """Return the words that are a variable, such as `$ARGS`. The first other word is the model if
    the model is not given. A further word that begins with `/` is the folder of a compiled engine.
    It is omitted, and a note is added.
    """
    passed = []
    for word in others:
        if word.expansions:
            passed.append(word)
            notes.append(
                f"`{word.text}` is passed on unchanged. Its flags must be those of `tgi serve`."
            )
        elif not has_model and "model_id" not in words:
            words["model_id"] = [word]
        elif word.starts_with("/"):
            notes.append(f"`{word.text}` is not converted, because tgi compiles the model itself.")
        else:
            raise UsageError(f"error: unexpected argument '{word.text}' found.")
    return passed


def _flag_and_value(word: Word) -> tuple[str, Word | None]:
    if word.starts_with("--"):
        flag, has_value, value = word.partition("=")
        return flag.text, value if has_value else None
    value = Word(word.atoms[2:])
    if value.starts_with("="):
        value = Word(value.atoms[1:])
    return Word(word.atoms[:2]).text, value if value else None


def _value(flag: str, value: Word | None, rest: list[Word]) -> Word:
    if value is not None:
        return value
    if not rest or rest[0].starts_with("--"):
        raise UsageError(f"error: a value is required for '{flag}' but none was supplied.")
    return rest.pop(0)


def option_words(options: LauncherOptions, overrides: Mapping[str, Word | None]) -> list[Word]:
    """Return the words after `tgi serve`: the model, and the options with a value other than the
    default. `overrides` replaces the values of options. None removes an option.
    """
    values = dict(options.words) | {
        name: () if word is None else (word,) for name, word in overrides.items()
    }
    if "max_input_length" in values and "max_input_tokens" not in values:
        values["max_input_tokens"] = values.pop("max_input_length")
    words: list[Word] = []
    for row in OPTIONS:
        of_row = values.get(row.name, ())
        if not of_row or row.no_effect or _is_default(row, of_row):
            continue
        if row.name == "model_id":
            words.insert(0, of_row[0])
        elif row.takes_value:
            words += [word for value in of_row for word in (Word.of(row.flag), value)]
        elif of_row[0].literal == "true":
            words.append(Word.of(row.flag))
    return [*words, *options.passed]


def _is_default(row: Option, values: Sequence[Word]) -> bool:
    texts = [value.literal for value in values]
    return texts == [
        str(row.default).lower() if isinstance(row.default, bool) else str(row.default)
    ]
