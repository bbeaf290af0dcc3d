"""The program `rotator`, and `python -m rotator`."""

import sys

from rotator.daemon.signals import SIGNALS, starts_daemon


def main() -> None:
    """Handle the daemon's signals, then import the rest, which takes its time, and run."""
    if starts_daemon(sys.argv[1:]):
        SIGNALS.handle()
    from rotator.cli import main as cli

    cli.main()


if __name__ == "__main__":
    main()
