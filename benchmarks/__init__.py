"""Measurements of rotator against what could stand in its place; docs/benchmarks.md has the methods and the figures."""
