"""Reads GGUF files: the container, the block types, and the names, config and tokenizer of a model.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""
