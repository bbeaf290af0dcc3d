"""Everything that changes a key or a path. It knows the core and its ports only."""
