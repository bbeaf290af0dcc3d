"""What one pass, sweep or command is about, and what it has done so far: what the invariants judge it by."""

from dataclasses import dataclass, field

NEVER_READ = float("-inf")


@dataclass(slots=True, eq=False)
class Intent:
    """Who asked for the work, and how old its knowledge is."""

    path: str = ""
    since: float = 0.0
    number: int = 0
    life: str = ""  # of which process, between two of its deaths
    scheduled: bool = False  # no person asked for it
    sweeping: bool = False
    tidying: bool = False  # keys that were made in vain are removed by their names
    by_person: bool = False  # a typed `rollback`
    adopting: bool = False
    revoking: bool = False
    extending: bool = False
    outdated: bool = False  # by a configuration that others have left behind
    trusts_its_clock: bool = True
    max_orphans: int = 0  # of a sweep

    proven: bool = False  # the store would take a write of this pass
    leads: bool | None = None  # the last answer; None: not asked since the last preflight
    read_at: float = NEVER_READ  # when the last read of a path was answered
    read_took: float = 0.0  # seconds
    made_by_read_at: float = NEVER_READ  # when what the create follows from was read
    retrieved: set[str] = field(default_factory=set)  # keys that were looked up one by one
    made: dict[str, float] = field(default_factory=dict)  # names of keys that were asked for, and when it was answered
    shortened: set[str] = field(default_factory=set)  # by a sweep
    is_stale: bool = False  # a read of a path has shown the past
    disturbed: bool = False  # something went wrong, but for a create that was not answered
    made_in_vain: bool = False  # a create was not answered, or refused although it was done
