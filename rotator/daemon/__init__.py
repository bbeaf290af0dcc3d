"""The long-lived service."""
