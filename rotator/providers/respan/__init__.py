"""Respan as a provider."""
