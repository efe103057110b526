"""Tokenizer, chat templates, incremental detokenizer and stop strings."""

from tgi.text.chat_template import ChatTemplate
from tgi.text.chat_template_renderer import ChatTemplateRenderer
from tgi.text.stopping import StopMatch, StoppingCriteria
from tgi.text.tokenizer import Detokenizer, Encoding, Tokenizer, TokenSpan
from tgi.text.tokenizer_pool import TokenizerPool

__all__ = [
    "ChatTemplate",
    "ChatTemplateRenderer",
    "Detokenizer",
    "Encoding",
    "StopMatch",
    "StoppingCriteria",
    "TokenSpan",
    "Tokenizer",
    "TokenizerPool",
]
