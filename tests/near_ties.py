"""Compares the greedy tokens of two servers that round differently."""

NEAR_TIE = 0.05  # difference of the log probabilities of the two most likely tokens


def generated(response):
    """The tokens of a response of /generate with `top_n_tokens: 2`, and how much more likely each
    token was than the second most likely one.
    """
    tops = response["details"]["top_tokens"]
    return (
        [token["id"] for token in response["details"]["tokens"]],
        [first["logprob"] - second["logprob"] for first, second, *_ in tops],
    )


def assert_equal_up_to_near_ties(first, second):
    """Tokens after a choice between two equally likely tokens are not compared."""
    (tokens, margins), (other_tokens, other_margins) = first, second
    different = [
        place
        for place, pair in enumerate(zip(tokens, other_tokens, strict=True))
        if pair[0] != pair[1]
    ]
    if different:
        place = different[0]
        assert max(margins[place], other_margins[place]) < NEAR_TIE, place
