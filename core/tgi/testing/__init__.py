"""The conformance suite, test doubles and the numpy reference, for authors of backends."""
