"""Kernels run in Triton's interpreter. The variable must be set before a kernel is imported."""

import os

os.environ["TRITON_INTERPRET"] = "1"
