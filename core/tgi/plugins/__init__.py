"""Finding backends and model families among the installed packages."""
