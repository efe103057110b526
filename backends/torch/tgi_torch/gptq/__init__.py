"""Quantizes checkpoints by GPTQ (arXiv 2210.17323) for `tgi quantize`."""
