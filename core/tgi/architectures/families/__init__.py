"""One module per model family, each of which reads a Hugging Face config into a `ModelSpec`."""
