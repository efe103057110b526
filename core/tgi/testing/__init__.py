"""For authors of backends: the conformance suite, test doubles and the numpy reference."""
