"""What the program reports: logs, metrics, status."""
