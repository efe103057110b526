"""Reads the tools and the tool choice of a chat. The messages are those of TGI, if TGI has one."""

from __future__ import annotations

from tgi.errors import ToolError
from tgi.server.chat.tools import ToolSelection, ToolUse, tool_definition, tool_use
from tgi.server.http.json_reader import RejectionError
from tgi.server.openai.schemas import ChatRequest, ChatTool
from tgi.text.output import ToolDefinition

__all__ = ["chat_tools"]

_SHAPE = "Failed to deserialize the JSON body into the target type: tool_choice: "
_NO_VARIANT = "data did not match any variant of untagged enum ToolTypeDeserializer"


def chat_tools(body: ChatRequest) -> ToolUse | None:
    """Return the tools that the output may call, or None if it must not call any. Raises
    `ToolError` for invalid tools, and `RejectionError` for a choice with an unknown schema.
    """
    if body.tools is None and body.tool_choice is None:
        return None
    tools = body.tools or []
    return tool_use(
        [_definition(tool, index) for index, tool in enumerate(tools)],
        _selection(body.tool_choice),
        is_parallel=body.parallel_tool_calls is not False,
        is_strict=any(tool.function is not None and tool.function.strict for tool in tools),
        prompt=body.tool_prompt or "",
    )


def _definition(tool: ChatTool, index: int) -> ToolDefinition:
    function = tool.function
    if function is None:
        raise ToolError(
            f"`tools[{index}]` of type `{tool.type[:64]}` has no `function`: only functions are"
            " supported"
        )
    parameters = function.arguments if function.parameters is None else function.parameters
    return tool_definition(
        function.name, function.description, parameters, f"tools[{index}].function"
    )


def _selection(choice: object) -> ToolSelection:
    """Read the choice in OpenAI's schema. As in TGI, any other string is the name of a tool."""
    selection = ToolSelection.of_openai(choice)
    if selection is not None:
        return selection
    match choice:
        case str() as name:
            return ToolSelection("named", name)
        case {"function": {"name": str() as name}}:
            return ToolSelection("named", name)
    raise RejectionError(422, f"{_SHAPE}{_NO_VARIANT}")
