"""Parses outputs in pieces and compares their parts."""

import json

from tgi.text.output import (
    OutputFormats,
    OutputParser,
    ReasoningPart,
    TextPart,
    ToolCallArguments,
    ToolCallBegin,
    ToolCallEnd,
)


def style_of(template, tools, prompt="", **options):
    return OutputFormats.detect(template, {}, **options).for_request(tools, prompt)


def parts_of(style, pieces):
    parser = OutputParser(style)
    parts = [part for piece in pieces for part in parser.push(piece)]
    return parts + parser.finish()


def items_of(parts):
    """The items of the parts, as in the transcripts. Checks the order of the parts of a call, their
    indices and the unique ids.
    """
    items, ids, arguments = [], [], None
    for part in parts:
        match part:
            case TextPart(text) | ReasoningPart(text):
                assert text
                kind = "text" if isinstance(part, TextPart) else "reasoning"
                if items and items[-1][0] == kind:
                    text = items.pop()[1] + text
                items.append((kind, text))
                arguments = None
            case ToolCallBegin(index, call_id, name):
                assert index == len(ids)
                ids.append(call_id)
                arguments = ""
                items.append(("cut", name, ""))
            case ToolCallArguments(index, text):
                assert index == len(ids) - 1
                assert arguments is not None, "arguments follow the beginning of their call"
                assert text
                check_piece(arguments, text)
                arguments += text
                items[-1] = (*items[-1][:2], arguments)
            case ToolCallEnd(index):
                assert index == len(ids) - 1
                assert isinstance(json.loads(arguments), dict)
                items[-1] = ("call", *items[-1][1:])
                arguments = None
    assert len(set(ids)) == len(ids)
    return items


def check_piece(before, piece):
    """Check that a piece of arguments does not end inside an escape sequence: closing the string
    must yield a valid string.
    """
    text = before + piece
    position = 0
    while (position := text.find("\\", position)) >= 0:
        length = 6 if text[position + 1 : position + 2] == "u" else 2
        escape = text[position : position + length]
        assert len(escape) == length, f"a piece ends inside an escape sequence: {text!r}"
        position += length
        if length == 6 and 0xD800 <= int(escape[2:], 16) < 0xDC00:
            assert text[position : position + 2] == "\\u", f"a piece ends in a pair: {text!r}"
