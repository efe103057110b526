"""Sentences around the phrases of a fact about tgi. `@` is replaced by the phrase."""

from __future__ import annotations

__all__ = ["CLAUSE_FRAMES", "GOAL_FRAMES", "TOPIC_FRAMES"]

_ASK = (
    "{How|How do I do that|How is that done|What do I need|Which one is it|What should I use|What"
    " do you recommend|Is that possible|Can I do that|Does tgi do that|What must I do|Which is the"
    " way|What would you do|Where do I begin|Any idea|Can you help me|What do I do}?"
)
GOAL_FRAMES = (
    (
        "{How|In which way|By what means} {do|can|would|could|should|might|must}"
        " {I|we|one|somebody|a user|an admin|people} @{?|?|?| here?| with tgi?}"
    ),
    "{I|We} {want|need|would like|have|plan|intend|hope|wish|must learn how|am supposed|try|have"
    " been told} to @. " + _ASK,
    (
        "{Is it possible|Is there a way|Is there an option|Is there a trick|Is it hard|Is it"
        " easy|Is it allowed|Do you know how|Does tgi allow me} to @?"
    ),
    (
        "{Which|What} {option|setting|flag|parameter|route|command|part of tgi|feature} {lets"
        " me|lets us|makes it possible to|do I need to|would I use to|do I take to|is there to|is"
        " meant to|would help me to} @?"
    ),
    "{Can|Could|May|Might} {I|we|one|somebody} @{?|?| with tgi?| with this server?| somehow?}",
    (
        "{Tell me how|Show me how|Explain how|Describe how|Please say how|I do not know how|I"
        " forgot how|I wonder how|Teach me how} to @{.|}"
    ),
    (
        "{What do I do|What is needed|What must I set|What should I call|What do I have to"
        " know|What does it take|What should I write|Where do I look} {to|in order to|if I want"
        " to|when I need to|when I have to} @?"
    ),
    "{My|Our} {boss|team|teacher|client|colleague|customer|admin|friend} {asked me|told me|wants"
    " me|expects me|would like me} to @. " + _ASK,
    (
        "{To|In order to} @, {what do I need|what do I use|which option is right|what would you"
        " take|what must I do|where do I go|what is there}?"
    ),
    "{My task is|The task is|My job is|The goal is|The idea is|My plan is|All I want is} to @. "
    + _ASK,
    "{Suppose|Say|Imagine} {I|we} {want|need|have} to @. " + _ASK,
)
CLAUSE_FRAMES = (
    "{Can|Could|Would|Will} you {tell|explain to|please tell|kindly tell} me @?",
    (
        "I {wonder|would like to know|do not understand|forgot|never understood|want to know|have"
        " to know|am not sure|ask myself|need to find out} @{.|}"
    ),
    "{Do you know|Do you remember|Any idea|Have you an idea|May I ask|Does anybody know} @?",
    (
        "{Explain|Tell me|Describe|Say|Please explain|Please tell me} {|briefly |simply |shortly"
        " |in simple words |in your own words |again }@{.|}"
    ),
    (
        "{My|Our} {boss|team|teacher|client|colleague|customer|son|friend} {asks|asked|wants to"
        " know|would like to know|does not understand} @. {What is the answer|What do I say|What"
        " can I tell them|What should I reply|Can you help}?"
    ),
    (
        "{What I want to know is|The question is|My question is|Here is my question:|It is unclear"
        " to me|It would help to know} @."
    ),
    "{Explain|Describe} to {me|my manager|a child|a student|a newcomer|the team|our users} @.",
)
_THEN = (
    "{What should I use|What do I do|How do I do that|What now|How|What would you use|What"
    " helps|Which one do I need|What do I need|What do you suggest|Where do I start|Which is the"
    " right one|What can I use|How does that work|Can you help|Any advice}?"
)
TOPIC_FRAMES = (
    (
        "{What about|How about|Tell me something about|Info on|I have a question about|Question"
        " about|Help with|I need help with|Explain|What is there for|What does tgi offer for|What"
        " should I know about|How does tgi deal with|How does tgi handle|Give me details on|Say"
        " something about|I am curious about|Could you explain|Would you explain|Can you tell me"
        " about|What can you say about|Is there documentation on|Do you know anything about}"
        " @{?|.|}"
    ),
    "I {want|need|would like|have to deal with|care about|am looking for|am interested in|think"
    " about} @. " + _THEN,
    "{My|Our} {team|company|program|client|friend|boss|user|student|admin} {needs|wants|asks"
    " for|asks about|wants to know about|talks about} @. " + _THEN,
    "@{?|: how?|, how?|, please.|, what is it?|!|}",
    "Is there {something|anything|a way|help|support} {for|with|about} @{| in tgi}?",
    "{What do I use|What would I take|What must I use|What is needed|What do people use} for @?",
    "{It is about|This is about|Let us talk about|Now about|Another question, about|A word on} @{. "
    + _THEN
    + "|.|?}",
    "{Could|Would|Can} {you|somebody|one} {tell|show|teach} me {how|more} about @?",
)
