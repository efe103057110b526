"""Checks and rewrites JSON schemas, so that llguidance enforces them exactly."""

from tgi.grammar.schema.normalizer import normalized_schema

__all__ = ["normalized_schema"]
