"""Describes each event, its levels and its fields, for the table of docs/logging.md and for the tests."""

from collections.abc import Mapping
from dataclasses import dataclass

from rotator.core.events import EventType, Level

_INFO, _WARNING, _ERROR = Level.INFO, Level.WARNING, Level.ERROR
_KEY = ("key_id", "key_name")
_AUDIT = ("reason", "by", "comment?")
AUDIT_FIELDS = (*_KEY, *_AUDIT)


@dataclass(frozen=True, slots=True)
class Description:
    """An event's levels, its fields (`?`: only where there is something to report), and its meaning."""

    levels: tuple[Level, ...]
    fields: tuple[str, ...]
    meaning: str

    def markdown(self, event: EventType) -> str:
        """Return the event's row: name, levels, fields, meaning. "audit" stands for the fields of the audit trail."""
        audit = set(AUDIT_FIELDS) <= set(self.fields)
        others = [field for field in self.fields if not audit or field not in AUDIT_FIELDS]
        shown = [f"`{field.rstrip('?')}`{'?' if field.endswith('?') else ''}" for field in others]
        fields = ", ".join(["*audit*", *shown] if audit else shown)
        return f"| `{event.value}` | {', '.join(self.levels)} | {fields} | {self.meaning} |"


EVENTS: Mapping[EventType, Description] = {
    EventType.KEY_CREATED: Description(
        (_INFO,), (*_KEY, *_AUDIT), "The provider created a key. No version holds it yet."
    ),
    EventType.KEY_PUBLISHED: Description(
        (_INFO,), (*_KEY, "version", "expires_at", *_AUDIT), "The path serves this key from now on."
    ),
    EventType.KEY_SHORTENED: Description(
        (_INFO,),
        (*_KEY, "expires_at", *_AUDIT),
        "A superseded key expires at the end of its grace, or a new key with too long a life expires as requested. "
        "`expires_at` is the provider's value, which it may have rounded up.",
    ),
    EventType.KEY_RESTORED: Description(
        (_INFO,),
        (*_KEY, "expires_at", *_AUDIT),
        "A key that was about to expire is or will be (`rollback`) served again. It lives as long as recorded.",
    ),
    EventType.KEY_EXTENDED: Description(
        (_INFO,),
        (*_KEY, "expires_at", *_AUDIT, "last_used_at?"),
        "A key lives longer: because of `rotator extend` (`reason` is `extended`), in a pause (`paused`), or because "
        "it is superseded and still used (`in-use`, when that begins).",
    ),
    EventType.KEY_RETIRED_IN_USE: Description(
        (_WARNING,),
        ("key_id", "last_used_at", "advice"),
        "The grace of a superseded key is over, and it was used within `idle_after` before. Its consumer is refused "
        "now.",
    ),
    EventType.KEY_DELETED: Description(
        (_INFO,),
        (*_KEY, *_AUDIT),
        "A key no longer works. `reason` is `unpublished` for a key that was never served, `orphan` for one that a "
        "sweep removed.",
    ),
    EventType.KEY_ROLLED_BACK: Description(
        (_INFO,), (*_KEY, "version", *_AUDIT), "`rotator rollback` serves the previous key again."
    ),
    EventType.VERSIONS_DESTROYED: Description(
        (_INFO,), (*_KEY, "versions", *_AUDIT), "The store no longer holds a superseded key."
    ),
    EventType.KEY_NOT_REMOVED: Description(
        (_WARNING,),
        (*_KEY, "error"),
        "A key that is not served could not be removed, or the outcome of publishing it is unknown. If the path has "
        "not changed, the next attempt publishes it (`key_published` follows). Otherwise a sweep removes it, or it "
        "expires. `key_id` is `unknown` if a create was not confirmed and the provider's list could not be read for "
        "half an hour, or before the process ended.",
    ),
    EventType.VERSION_EXPIRES_EARLY: Description(
        (_ERROR,),
        (*_KEY, "version", "vanishes_at", "expires_at", "advice"),
        "Vault will delete the published version before its key expires (`delete_version_after` of the path or the "
        "mount). Applications would then find no key.",
    ),
    EventType.KEY_CUT_SHORT: Description(
        (_WARNING,),
        (*_KEY, "expires_at"),
        "The provider gave a new key a shorter life than `ttl`, so rotator renews it sooner, with more requests. Lower "
        "`ttl`, or ask the provider for a plan that allows it.",
    ),
    EventType.KEY_OWNERSHIP_MISMATCH: Description(
        (_ERROR,),
        _KEY,
        "The path's record names a key whose name is not one for this place. rotator leaves the key alone and does not "
        "enforce its grace; `target_failed` has its expiry. After a move, configure the "
        "[former place](configuration.md#after-a-move); otherwise find out who wrote the record. Reported once.",
    ),
    EventType.PATH_FENCED: Description(
        (_INFO,),
        (*_KEY, "version", *_AUDIT),
        "The sweep wrote the served data again, so that no late write can publish an orphan.",
    ),
    EventType.SWEEP_COMPLETED: Description(
        (_INFO, Level.DEBUG),
        ("provider", "listed", "orphans", "unclaimed", "others", "emptied", "to_work", "unknown"),
        "A sweep that read the provider's list ended. The fields count the keys of each kind and the targets that have "
        "work now (`to_work`). `emptied`: absent paths whose keys still live. `unknown`: served keys that the provider "
        "does not know, so many that none is replaced. At `debug` if the counts are those of the previous sweep and it "
        "removed nothing.",
    ),
    EventType.SWEEP_FAILED: Description(
        (_WARNING, _ERROR),
        ("provider", "error", "advice", "targets", "failures"),
        "A sweep could not do everything: `targets` counts the targets that could not be read. Reported the 1st, 2nd, "
        "4th, 8th, ... time in a row.",
    ),
    EventType.SWEEP_RECOVERED: Description(
        (_INFO,), ("provider",), "A sweep did everything again, after a reported failure."
    ),
    EventType.PUBLISH_CONFLICT: Description(
        (_INFO,),
        (*_KEY, "version", *_AUDIT),
        "Another writer was first: its version is served, and rotator removes its own key.",
    ),
    EventType.ROTATED_OUTSIDE_WINDOW: Description(
        (_WARNING,),
        ("reason", "permitted_at", "advice"),
        "A key was replaced outside the target's windows, or in its pause, because it would have expired before "
        "`permitted_at`.",
    ),
    EventType.TARGET_FAILED: Description(
        (_WARNING, _ERROR),
        ("error", "advice", "failures", "served", "retry_at?"),
        "A pass over the target failed: why, what to do, how many times in a row, which key the applications have, "
        "when the next attempt is. Each kind of error is reported the 1st, 2nd, 4th, 8th, ... time since the last "
        "success, unless `upstream_down` reports its cause.",
    ),
    EventType.TARGET_RECOVERED: Description(
        (_INFO,),
        (),
        "A pass succeeded after a reported failure, or rotator owns a foreign path again.",
    ),
    EventType.TARGET_FOREIGN: Description(
        (_ERROR,),
        ("path", "reason", "advice"),
        "rotator did not write the path's newest version. It changes nothing of this target.",
    ),
    EventType.PATH_EMPTIED: Description(
        (_WARNING,),
        ("path", "error", "advice"),
        "The path is absent and held a key before, as after `vault kv metadata delete`. rotator publishes a new key. "
        "Reported once until the path has a key.",
    ),
    EventType.KEY_WITHOUT_TARGET: Description(
        (_WARNING,),
        (*_KEY, "provider"),
        "A live key has this owner's name and no configured path. rotator leaves it alone, and it expires. Reported "
        "once per process.",
    ),
    EventType.KEY_NEARLY_SPENT: Description(
        (_INFO, _WARNING),
        ("key_id", "cap", "used", "limit", "as_of", "spent_at?"),
        "The served key has used most of a cap, or will before its consumers have another key. `spent_at` is when, at "
        "the present rate. A warning unless `on_cap` is `replace`.",
    ),
    EventType.KEY_SPENT: Description(
        (_ERROR,),
        ("key_id", "cap", "used", "limit", "as_of", "advice"),
        "The served key has used all of a cap, so the provider refuses its calls.",
    ),
    EventType.EARLY_ROTATION_HELD: Description(
        (_WARNING,),
        ("key_id", "reason"),
        "The served key is nearly spent and is not replaced. `reason` is `early-exhausted` for a day with "
        "`max_early_rotations` such keys, `cap-too-small` for a cap that lasts hardly longer than the pickup.",
    ),
    EventType.USE_UNKNOWN: Description(
        (_WARNING,),
        ("provider", "targets", "advice"),
        "The keys of this many targets have caps, and neither the provider's list nor a look-up shows how much they "
        "have used: rotator cannot notice that one is spent. Reported once, and again if their use was shown "
        "meanwhile.",
    ),
    EventType.UPSTREAM_DOWN: Description(
        (_WARNING, _ERROR),
        ("upstream", "error", "advice"),
        "A provider refuses the management credential or has not answered for a minute, or a store is sealed, "
        "unreachable or refuses the login. rotator sends it only a request now and then. Reported once, and again when "
        "it needs a person.",
    ),
    EventType.UPSTREAM_UP: Description(
        (_INFO,),
        ("upstream",),
        "The upstream works again, which rotator notices within 30 seconds. It retries the targets that failed, the "
        "most urgent first, as fast as the budget allows.",
    ),
    EventType.CLOCK_SKEW_DETECTED: Description(
        (_ERROR,),
        ("skews", "error", "advice"),
        "This clock differs from an upstream's by more than `[daemon] max_clock_skew`. rotator shortens and removes no "
        "key. It renews keys, unless every upstream contradicts this clock: then only those about to expire.",
    ),
    EventType.CLOCK_SKEW_RESOLVED: Description((_INFO,), ("skews",), "The clocks agree again."),
    EventType.CLOCK_JUMPED: Description(
        (_WARNING,),
        ("seconds", "targets"),
        "The clock was set forward by `seconds`, or back if negative. Every target gets a new pass.",
    ),
    EventType.STUCK: Description(
        (_ERROR,),
        ("problems", "advice"),
        "Part of this process makes no progress, as `/healthz` reports. Kubernetes and systemd restart it.",
    ),
    EventType.UNSTUCK: Description((_INFO,), (), "The process works again."),
    EventType.LEADERSHIP_ACQUIRED: Description((_INFO,), ("lease", "holder"), "This replica holds the Lease and acts."),
    EventType.LEADERSHIP_LOST: Description(
        (_INFO,), ("lease", "holder"), "This replica lost the Lease. `holder` is the current leader, if known."
    ),
    EventType.LEASE_FAILED: Description(
        (_WARNING, _ERROR),
        ("error", "advice", "leads"),
        "The Lease could not be read or renewed. An error if the token, the certificates or the rights need a person. "
        "A leader acts until two thirds of the duration have passed. Reported once for each error.",
    ),
    EventType.LEASE_RECOVERED: Description(
        (_INFO,), ("lease", "holder"), "The Lease was read or renewed after a failure."
    ),
    EventType.STARTED: Description(
        (_INFO,),
        ("version", "owner", "targets", "listen", "admin", "budget"),
        "The daemon works. `listen` and `admin` are the actual addresses; `budget` is what the targets need of each "
        "provider's budget.",
    ),
    EventType.STOPPING: Description((_INFO,), ("signal",), "The daemon begins nothing new."),
    EventType.STOPPED: Description(
        (_INFO,), ("drained",), "The daemon ends. `drained` is false if work was still under way."
    ),
    EventType.CONFIGURATION_LOADED: Description(
        (_INFO,),
        ("file", "targets", "added", "changed", "removed", "budget"),
        "The daemon reloaded its configuration. `targets` and the next three fields are counts.",
    ),
    EventType.CONFIGURATION_REFUSED: Description(
        (_ERROR,),
        ("file", "problems", "advice"),
        "A reload was refused. The previous configuration stays in force.",
    ),
    EventType.CONFIGURATION_WARNING: Description(
        (_WARNING,), ("file", "key", "message"), "The configuration is valid and may have an unexpected effect."
    ),
    EventType.ROTATION_REQUESTED: Description(
        (_INFO,), ("by", "targets"), "A person requested new keys for this many targets."
    ),
    EventType.LOGIN_FAILED: Description(
        (_WARNING, _ERROR),
        ("store", "error", "advice"),
        "The login to a store could not be kept. An error if the store refuses it. Reported once for each error.",
    ),
    EventType.LOGIN_RECOVERED: Description((_INFO,), ("store",), "The login works again, after a failure."),
    EventType.LOGIN_ENDING: Description(
        (_WARNING,),
        ("store", "expires_at", "message", "advice"),
        "A given token expires within an hour and cannot be renewed. Reported once per token.",
    ),
    EventType.NOTIFICATIONS_FAILED: Description(
        (_WARNING, _ERROR),
        ("channel", "error", "advice", "waiting"),
        "A channel of `[notify]` did not take a notification; `waiting` are queued, and rotator sends them again for a "
        "day. Reported once until the channel works again, again if only a person can help (an error), and at the "
        "channel's end if any are left.",
    ),
    EventType.NOTIFICATIONS_RECOVERED: Description(
        (_INFO,), ("channel", "waiting"), "A channel took a notification again, after a reported failure."
    ),
    EventType.LOG_LINES_DROPPED: Description(
        (_WARNING, _ERROR),
        ("lines", "audit_lines", "advice"),
        "The log could not be written: this many lines before this one are missing, and this many of the audit trail. "
        "An error if any of the audit trail are missing.",
    ),
    EventType.UNEXPECTED_ERROR: Description(
        (_ERROR,), ("where", "error", "traceback"), "A fault in rotator. Please report it."
    ),
}
