"""Grammars and token masks. Empty until the routes accept grammars."""
