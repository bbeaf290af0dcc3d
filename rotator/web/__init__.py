"""The HTTP server and the status page."""
