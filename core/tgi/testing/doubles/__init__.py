"""Backends that need no accelerator, for tests of the core and as examples."""
