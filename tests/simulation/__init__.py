"""The real protocol under a scheduler that decides everything: see `scheduler`; `invariants` has what must hold.

`python -m simulation SEED` (from tests/) replays one schedule and prints each of its steps.
"""
