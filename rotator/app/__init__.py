"""Puts the adapters together, and works on targets."""
