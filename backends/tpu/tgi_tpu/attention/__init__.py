"""Attention over the paged cache: the reference, the kernel and the choice between them."""
