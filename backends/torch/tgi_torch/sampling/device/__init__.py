"""Sampling on a device without a sort, without data-dependent shapes and without a host read.

A step can therefore be captured in a graph, and the host can submit the next step before the result
of this step is known. No backend uses this package yet.

`HostInputs` (`host_inputs.py`) writes the parameters of a step to one flat numpy buffer, which the
caller copies to the device. `SamplerInputs` (`inputs.py`) contains views of the copy. `sample`
(`sampler.py`) enqueues the operations, and `read_outputs` converts the copy of the result.
"""
