"""Renders the option table as the help text and as the page `docs/options.md`."""

from __future__ import annotations

import textwrap

from tgi.config.option import Option
from tgi.config.options import OPTIONS
from tgi.config.quantization import QUANTIZATION_MEANINGS

__all__ = ["options_help", "options_page"]

_HELP_WIDTH = 100
_HELP_INDENT = " " * 10


def options_help() -> str:
    """Return the help text of all options by group, for a terminal."""
    lines: list[str] = []
    for group in _groups():
        lines += ["", f"{group}:"]
        for row in OPTIONS:
            if row.group == group:
                lines += _help_lines(row)
    return "\n".join(lines)


def options_page() -> str:
    """Return the content of the reference page `docs/options.md`. A test compares the content with
    the file.
    """
    lines = [
        "# Options of `tgi serve`",
        "",
        "This page is generated from the option table: `python -m tgi.config > docs/options.md`.",
        "",
        "`text-generation-launcher` accepts the same options. The command line takes precedence",
        "over the environment. *Derived* means that the default depends on the model, the",
        "available memory or the backend.",
        "",
        "Backends have additional options, `--<backend>-<name>`. `tgi backends` lists them.",
    ]
    for group in _groups():
        lines += [
            "",
            f"## {group}",
            "",
            "| Option | Variable | Value | Default | Meaning |",
            "|---|---|---|---|---|",
        ]
        lines += [_table_row(row) for row in OPTIONS if row.group == group]
    return "\n".join([*lines, *_quantization_lines()]) + "\n"


def _quantization_lines() -> list[str]:
    """Return the lines of the section on the values of `--quantize`."""
    return [
        "",
        "## Values of `--quantize`",
        "",
        "A value has the same meaning on every backend that supports it. A backend that does not",
        "support the value ends startup with an error message that contains the meaning.",
        "",
        "| Value | The server | Bits per weight | Scales |",
        "|---|---|---|---|",
        *(
            f"| `{name}` | {meaning.text} | {meaning.weight_bits or 'as stored'} |"
            f" {meaning.granularity} |"
            for name, meaning in QUANTIZATION_MEANINGS.items()
        ),
    ]


def _groups() -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.group for row in OPTIONS))


def _help_lines(row: Option) -> list[str]:
    flags = f"{row.short}, {row.flag}" if row.short else f"    {row.flag}"
    words = row.value_words
    facts = [f"env: {row.environment}"] if row.environment else []
    if row.takes_value and row.default not in (None, ()):
        facts.append(f"default: {row.default}")
    if row.no_effect:
        facts.append(f"no effect: {row.no_effect}")
    text = row.help + (f" [{'; '.join(facts)}]" if facts else "")
    wrapped = textwrap.wrap(
        text, _HELP_WIDTH, initial_indent=_HELP_INDENT, subsequent_indent=_HELP_INDENT
    )
    return [f"  {flags}" + (f" <{words}>" if words else ""), *wrapped]


def _table_row(row: Option) -> str:
    flags = f"`{row.flag}`" + (f", `{row.short}`" if row.short else "")
    variable = f"`{row.environment}`" if row.environment else ""
    value = row.value_words.replace("|", ", ") or "flag"
    default = "" if row.default in ((), False) else f"`{row.default}`"
    if row.default is None:
        default = "" if row.kind is str else "derived"
    help_text = row.help + (
        f" This option has no effect: {row.no_effect}." if row.no_effect else ""
    )
    return f"| {flags} | {variable} | {value} | {default} | {help_text} |"
