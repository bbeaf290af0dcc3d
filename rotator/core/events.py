"""What happened, as data: one vocabulary that logs, metrics, the command line and the status page share.

Nothing here writes anything. A field's value is never a key, a token or a request's body.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from rotator.core.errors import RotatorError


class Level(StrEnum):
    """Debug: nothing changed. Info: something did. Warning: rotator retries it. Error: a person is needed."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @classmethod
    def of(cls, error: RotatorError) -> Self:
        """Return the level of an event that reports this error."""
        return cls.ERROR if error.needs_a_person else cls.WARNING


class EventType(StrEnum):
    """The names of all events; their fields are listed in docs/logging.md."""

    KEY_CREATED = "key_created"
    KEY_PUBLISHED = "key_published"
    KEY_SHORTENED = "key_shortened"
    KEY_RESTORED = "key_restored"
    KEY_EXTENDED = "key_extended"
    KEY_DELETED = "key_deleted"
    KEY_RETIRED_IN_USE = "key_retired_in_use"  # superseded, removed with its grace, and used shortly before
    KEY_ROLLED_BACK = "key_rolled_back"
    VERSIONS_DESTROYED = "versions_destroyed"
    KEY_NOT_REMOVED = "key_not_removed"  # not removed, and not known to be served; offered again, or ended by a sweep
    VERSION_EXPIRES_EARLY = "version_expires_early"  # the store will delete it while its key is still served
    KEY_CUT_SHORT = "key_cut_short"  # the provider gave it a shorter life than requested
    KEY_OWNERSHIP_MISMATCH = "key_ownership_mismatch"  # the record names a key that was not made for this path
    KEY_WITHOUT_TARGET = "key_without_target"  # carries our owner's name, and its path is not configured
    PATH_FENCED = "path_fenced"  # the served data was written again, so that no writer under way can publish
    SWEEP_COMPLETED = "sweep_completed"
    SWEEP_FAILED = "sweep_failed"
    SWEEP_RECOVERED = "sweep_recovered"
    ROTATED_OUTSIDE_WINDOW = "rotated_outside_window"  # or in a pause: the served key would have expired
    PUBLISH_CONFLICT = "publish_conflict"  # another writer was first
    TARGET_FAILED = "target_failed"
    TARGET_RECOVERED = "target_recovered"
    TARGET_FOREIGN = "target_foreign"
    PATH_EMPTIED = "path_emptied"  # the path is absent, and keys of it are known
    KEY_NEARLY_SPENT = "key_nearly_spent"  # a cap of the served key reached its threshold, or soon will
    KEY_SPENT = "key_spent"  # a cap of the served key is reached: the provider refuses its calls
    EARLY_ROTATION_HELD = "early_rotation_held"  # the key is nearly spent, and is not replaced now
    USE_UNKNOWN = "use_unknown"  # keys have caps, and no answer of the provider shows their use
    UPSTREAM_DOWN = "upstream_down"  # a provider that refuses the management credential, a store out of reach
    UPSTREAM_UP = "upstream_up"
    CLOCK_SKEW_DETECTED = "clock_skew_detected"
    CLOCK_SKEW_RESOLVED = "clock_skew_resolved"
    CLOCK_JUMPED = "clock_jumped"
    STUCK = "stuck"
    UNSTUCK = "unstuck"
    LEADERSHIP_ACQUIRED = "leadership_acquired"
    LEADERSHIP_LOST = "leadership_lost"
    LEASE_FAILED = "lease_failed"
    LEASE_RECOVERED = "lease_recovered"
    STARTED = "started"
    STOPPING = "stopping"
    STOPPED = "stopped"
    CONFIGURATION_LOADED = "configuration_loaded"
    CONFIGURATION_REFUSED = "configuration_refused"
    ROTATION_REQUESTED = "rotation_requested"
    CONFIGURATION_WARNING = "configuration_warning"
    NOTIFICATIONS_FAILED = "notifications_failed"
    NOTIFICATIONS_RECOVERED = "notifications_recovered"
    LOG_LINES_DROPPED = "log_lines_dropped"  # nothing read the log for a while; the log itself emits it
    LOGIN_FAILED = "login_failed"
    LOGIN_ENDING = "login_ending"  # a given token, which nothing can renew
    LOGIN_RECOVERED = "login_recovered"
    UNEXPECTED_ERROR = "unexpected_error"


AUDIT = frozenset(
    {
        EventType.KEY_CREATED,
        EventType.KEY_PUBLISHED,
        EventType.KEY_SHORTENED,
        EventType.KEY_RESTORED,
        EventType.KEY_EXTENDED,
        EventType.KEY_DELETED,
        EventType.KEY_ROLLED_BACK,
        EventType.VERSIONS_DESTROYED,
        EventType.PATH_FENCED,
        EventType.PUBLISH_CONFLICT,
    }
)
"""The audit trail: what was done to keys and paths."""

Fields = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, to one target or (with no target) to the whole."""

    what: EventType
    target: str = ""
    level: Level = Level.INFO
    fields: Fields = field(default_factory=dict)
