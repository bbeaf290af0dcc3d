"""The implementation of each command; `rotator.cli.operate` and `tryout` have its options and its help."""
