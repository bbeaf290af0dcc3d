"""From the configuration files to what the program runs with."""
