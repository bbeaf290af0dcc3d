"""What builds and checks this project; not part of what is installed."""
