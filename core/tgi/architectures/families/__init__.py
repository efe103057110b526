"""One module per model family. Each reads a Hugging Face config into a `ModelSpec`."""
