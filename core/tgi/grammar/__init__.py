"""Grammars, and the token masks that enforce them."""
