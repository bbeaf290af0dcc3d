"""Measurements of rotator against what could stand in its place; benchmarks/README.md has the methods and results."""
