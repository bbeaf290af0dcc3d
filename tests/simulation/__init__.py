"""The real protocol under a scheduler that decides everything: `scheduler` says how, `invariants` what must hold.

`python -m simulation SEED` (from tests/) replays one schedule and prints each of its steps.
"""
