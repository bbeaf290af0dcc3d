"""Notifies consumers of rotations: webhooks, External Secrets. Nothing here can delay a rotation."""
