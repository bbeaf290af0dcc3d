"""Telling consumers of a rotation: webhooks, and External Secrets. Nothing here can delay one."""
