"""Reads the weights of checkpoints: formats of quantized weights, and containers of tensors."""
