"""The formats of quantized checkpoints. Each module converts stored tensors of one format to the
canonical form.
"""
