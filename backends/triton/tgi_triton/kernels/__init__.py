"""The source of the kernels. Triton compiles these functions. They contain no host code.

Rules for all kernels:

* A value is converted to float32 directly after the load. Only operands of `tl.dot` have a smaller
  dtype, which the caller chooses. Triton's interpreter computes wrong results with bfloat16.
* Sizes that a kernel needs at compile time are `tl.constexpr`. There is no autotuning, because it
  requires a device at import.
* Every load and store has a mask for the elements after the end.
* A kernel with many arguments receives them in records: named tuples of tensors and numbers, and
  one dataclass with all compile-time values.
"""
