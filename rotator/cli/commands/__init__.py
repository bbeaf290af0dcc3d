"""The implementation of each command; `rotator.cli.main` has its options and its help."""
