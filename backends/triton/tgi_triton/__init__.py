"""Kernels in Triton for GPUs of all vendors, as entries of the operation table of `tgi_torch`."""
