"""Text to tokens and back: tokenizer, chat template, incremental detokenizer, stop strings."""

from tgi.text.chat_template import ChatTemplate, Message
from tgi.text.detokenizer import Detokenizer
from tgi.text.stopping import StopMatch, StoppingCriteria
from tgi.text.tokenizer import Encoding, Tokenizer, TokenizerPool, TokenSpan

__all__ = [
    "ChatTemplate",
    "Detokenizer",
    "Encoding",
    "Message",
    "StopMatch",
    "StoppingCriteria",
    "TokenSpan",
    "Tokenizer",
    "TokenizerPool",
]
