"""The options of a chat about its reasoning, and the variables of its template. All chat protocols
use this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import msgspec

from tgi.errors import ValidationError
from tgi.text.chat_template_traits import TemplateTraits
from tgi.text.output import OutputStyle

__all__ = ["ReasoningOptions"]

MAX_KWARGS_BYTES = 65_536
"""Maximum size of `chat_template_kwargs` as JSON."""

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_VERBOSITIES = ("low", "medium", "high")
_SWITCHES = ("enable_thinking", "thinking")
"""The variables with which templates switch the reasoning on and off."""

_RESERVED = frozenset(
    {
        *("messages", "tools", "add_generation_prompt", "continue_final_message"),
        *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token"),
        *("mask_token", "additional_special_tokens"),
    }
)


@final
@dataclass(frozen=True)
class ReasoningOptions:
    """The options of one request. The names of the fields appear in error messages."""

    variables: Mapping[str, Any] = field(default_factory=dict)  # `chat_template_kwargs`
    effort: str | None = None
    is_enabled: bool | None = None  # None = the default of the template
    max_tokens: int | None = None
    verbosity: str | None = None
    effort_field: str = "reasoning_effort"
    enabled_field: str = "enable_thinking"
    limit_field: str = "thinking_token_budget"
    verbosity_field: str = "verbosity"

    @property
    def is_switched(self) -> bool | None:
        """Whether the reasoning is switched on or off. None if the template decides."""
        if self.is_enabled is not None:
            return self.is_enabled
        if self.effort is not None:
            return self.effort != "none"
        switches = [self.variables[name] for name in _SWITCHES if name in self.variables]
        return switches[0] if switches and isinstance(switches[0], bool) else None

    def template_variables(self, traits: TemplateTraits) -> dict[str, Any]:
        """Return the variables for a template. Raises `ValidationError` for an invalid option, and
        for an option that has no effect on this template.
        """
        self._check_variables()
        variables = dict(self.variables)
        switches = [name for name in _SWITCHES if traits.uses(name)]
        if self.is_enabled is not None or self.effort is not None:
            variables |= dict.fromkeys(switches, self.is_switched)
        if self.effort is not None:
            _check_choice(self.effort_field, self.effort, _EFFORTS)
            if traits.uses("reasoning_effort") and not (switches and self.effort == "none"):
                variables["reasoning_effort"] = self.effort
            elif not switches and self.effort != "none":
                raise ValidationError(
                    f"`{self.effort_field}` is not supported by the chat template of this model:"
                    f" leave it out. Given: {self.effort}"
                )
        if self.verbosity is not None:
            _check_choice(self.verbosity_field, self.verbosity, _VERBOSITIES)
            if traits.uses("verbosity"):
                variables["verbosity"] = self.verbosity
            elif self.verbosity != "medium":  # the default, which has no effect
                raise ValidationError(
                    f"`{self.verbosity_field}` is not supported by the chat template of this model:"
                    f" leave it out. Given: {self.verbosity}"
                )
        return variables

    def limit(self, traits: TemplateTraits, style: OutputStyle) -> int | None:
        """Return the maximum number of reasoning tokens of an output with this style. None means no
        limit. If a template cannot switch the reasoning off, the limit is 0.

        Raises `ValidationError` for an option that has no effect on this model.
        """
        has_switch = any(traits.uses(name) for name in _SWITCHES)
        if style.reasoning is None:
            if self.max_tokens is not None:
                raise _no_reasoning(self.limit_field)
            if self.is_enabled and not has_switch:
                raise _no_reasoning(self.enabled_field)
            return None
        if self.max_tokens is not None:
            return self.max_tokens
        is_off = self.is_switched is False
        return 0 if is_off and not has_switch else None

    def limiting_field(self) -> str:
        """The field of the body that limits the reasoning."""
        if self.max_tokens is not None:
            return self.limit_field
        return self.enabled_field if self.is_enabled is not None else self.effort_field

    def _check_variables(self) -> None:
        reserved = sorted(_RESERVED & self.variables.keys())
        if reserved:
            raise ValidationError(
                f"`chat_template_kwargs` must not contain `{reserved[0]}`, because the server sets"
                " this variable"
            )
        size = len(msgspec.json.encode(self.variables)) if self.variables else 0
        if size > MAX_KWARGS_BYTES:
            raise ValidationError(
                f"`chat_template_kwargs` must have at most {MAX_KWARGS_BYTES} bytes. Given: {size}"
            )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValidationError(f"`{name}` must be one of {', '.join(choices)}. Given: {value[:64]}")


def _no_reasoning(name: str) -> ValidationError:
    return ValidationError(
        f"`{name}` is not supported, because the server does not recognise reasoning of this model:"
        " leave it out, or start the server with `--reasoning-parser`"
    )
