"""Tests of the sampler for devices."""
