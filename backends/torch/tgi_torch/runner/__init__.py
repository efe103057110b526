"""From a scheduled step to its result."""
