"""A wall clock that a test sets, as an administrator or a virtual machine's host does."""

import sys
from datetime import datetime, timedelta, tzinfo

BY_THE_WALL_CLOCK = (
    "rotator.runtime.clock",
    "rotator.daemon.main",
    "rotator.daemon.jobs",
    "apscheduler.schedulers.base",
)
"""The modules that a daemon asks for the time."""


class Wall:
    """How far the wall clock is ahead of the real one."""

    ahead = timedelta(0)

    def install(self) -> list[tuple[str, type[datetime]]]:
        """Return the replacement of `datetime` for each of those modules that has it."""

        class Set(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.now(tz) + self.ahead

        modules = [name for name in BY_THE_WALL_CLOCK if hasattr(sys.modules.get(name), "datetime")]
        return [(f"{name}.datetime", Set) for name in modules]
