"""Decides what the log reports of repeated troubles: the first time, and the end.

`Notices` is the only mechanism. `Reports` uses it for passes, sweeps, upstreams and the clock.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping
from datetime import datetime

from rotator.app.passes import clock_skew, troubles
from rotator.core.errors import ProviderError, ProviderOutcomeUnknown, ProviderUnavailable, RotatorError
from rotator.core.events import Event, EventType, Fields, Level
from rotator.core.orphans import OrphanState, Outcome
from rotator.core.ports import Listener
from rotator.protocol.reconciler import Report
from rotator.protocol.sweeper import SweepReport
from rotator.runtime.clock import SystemClock

_LASTING = (
    EventType.TARGET_FOREIGN,
    EventType.KEY_OWNERSHIP_MISMATCH,
    EventType.PATH_EMPTIED,
    EventType.KEY_SPENT,
    EventType.KEY_NEARLY_SPENT,
    EventType.EARLY_ROTATION_HELD,
)
"""What every pass over a target finds until a person acts. Reported once."""

_NO_ANSWER = (ProviderUnavailable, ProviderOutcomeUnknown)


class Notices:
    """Counts each trouble of each subject until it is over. Only one thread at a time may use a subject."""

    def __init__(self, emit: Listener) -> None:
        self._emit = emit
        self._counts: dict[Hashable, Counter[Hashable]] = {}

    def __contains__(self, subject: Hashable) -> bool:
        return subject in self._counts

    def count(self, subject: Hashable, trouble: Hashable = None) -> int:
        """Count the trouble, and return how many times in a row it has happened."""
        counts = self._counts.setdefault(subject, Counter())
        counts[trouble] += 1
        return counts[trouble]

    def report(self, event: Event, subject: Hashable = None, trouble: Hashable = None) -> None:
        """Count the trouble, and emit the event the first time."""
        if self.count(subject, trouble) == 1:
            self._emit(event)

    def resolve(self, event: Event, subject: Hashable = None) -> bool:
        """Forget the subject; emit the event and return True if it had a trouble."""
        if self._counts.pop(subject, None) is None:
            return False
        self._emit(event)
        return True

    def keep(self, subject: Hashable, troubles: Collection[Hashable]) -> frozenset[Hashable]:
        """Forget the subject's other troubles, and return them."""
        counts = self._counts.pop(subject, Counter())
        if left := Counter({trouble: times for trouble, times in counts.items() if trouble in troubles}):
            self._counts[subject] = left
        return frozenset(counts.keys() - left.keys())

    def keep_only(self, subjects: Collection[Hashable]) -> None:
        """Forget all other subjects."""
        for subject in [*self._counts]:
            if subject not in subjects:
                self._counts.pop(subject, None)


def is_to_report(times: int) -> bool:
    """Return True for the 1st, 2nd, 4th, 8th, ... time."""
    return times & (times - 1) == 0


class Reports:
    """Reports what is new about targets, sweeps, upstreams and the clock."""

    def __init__(self, emit: Listener) -> None:
        self._emit = emit
        self._failures, self._lasting = Notices(emit), Notices(emit)  # by target
        self._sweeps, self._unclaimed = Notices(emit), Notices(emit)  # by provider
        self._use = Notices(emit)  # by provider
        self._upstreams, self._clock = Notices(emit), Notices(emit)
        self._counted: dict[str, Fields] = {}  # by provider: what the last sweep saw

    def keep_only(self, targets: Collection[str]) -> None:
        """Forget the targets that are no longer configured."""
        self._failures.keep_only(targets)
        self._lasting.keep_only(targets)

    # --- passes ------------------------------------------------------------------------------------------------------

    def passed(
        self, report: Report, failures: int, retry_at: datetime | None, upstreams: Mapping[str, RotatorError | None]
    ) -> None:
        """Report the troubles of a pass: each kind of error rarely, and none that an upstream explains."""
        target, error = report.target, report.error
        is_news = error is None or (
            not is_known(error, target.provider, upstreams)
            and is_to_report(self._failures.count(target.name, type(error).__name__))
        )
        present = set()
        for event in troubles(report, failures, retry_at):
            lasts = event.what in _LASTING
            why = event.fields["reason"] if event.what is EventType.EARLY_ROTATION_HELD else None
            trouble = event.what, event.fields.get("key_id"), why
            present.add(trouble)
            if is_news and lasts:
                self._lasting.report(event, target.name, trouble)
            elif is_news:
                self._emit(event)
        if report.plan is not None:
            over = self._lasting.keep(target.name, present)
            if (EventType.TARGET_FOREIGN, None, None) in over:
                self._failures.count(target.name)  # once its passes succeed, a path that is ours again has recovered
        if error is None:
            self._failures.resolve(Event(EventType.TARGET_RECOVERED, target.name), target.name)

    # --- sweeps ------------------------------------------------------------------------------------------------------

    def swept(self, swept: SweepReport, upstreams: Mapping[str, RotatorError | None]) -> None:
        """Report a sweep's counts (at info if they are new), its errors, and keys without a target."""
        if not isinstance(swept.error, ProviderError):  # else the list was not read: nothing was counted
            self._emit(self._sweep_completed(swept))
        failed = set()
        for error in _failures(swept, upstreams):
            failed.add(error.message)
            times = self._sweeps.count(swept.provider, error.message)
            if is_to_report(times):
                self._emit(_sweep_failed(swept, error, times))
        if swept.complete:
            self._sweeps.resolve(Event(EventType.SWEEP_RECOVERED, fields={"provider": swept.provider}), swept.provider)
        if failed:  # otherwise an upstream's known failures hide whether earlier troubles are over
            self._sweeps.keep(swept.provider, failed)
        for key in swept.unclaimed:
            fields = {"key_id": key.id, "key_name": key.name, "provider": swept.provider}
            event = Event(EventType.KEY_WITHOUT_TARGET, "", Level.WARNING, fields)
            self._unclaimed.report(event, swept.provider, key.id)
        if swept.unclaimed or swept.complete:  # otherwise the sweep did not see all keys
            self._unclaimed.keep(swept.provider, {key.id for key in swept.unclaimed})

    def _sweep_completed(self, swept: SweepReport) -> Event:
        counted = _counted(swept)
        did_something = any(orphan.outcome in (Outcome.SHORTENED, Outcome.REMOVED) for orphan in swept.orphans)
        is_news = did_something or self._counted.get(swept.provider) != counted
        self._counted[swept.provider] = counted
        return Event(EventType.SWEEP_COMPLETED, "", Level.INFO if is_news else Level.DEBUG, counted)

    def unknown_use(self, provider: str, targets: int) -> None:
        """Report that the provider does not show the use of so many targets' keys, which have caps."""
        if not targets:
            self._use.keep(provider, ())
            return
        advice = "Watch these caps at the provider. For a provider of type http, answer.use names the counters."
        fields: Fields = {"provider": provider, "targets": targets, "advice": advice}
        self._use.report(Event(EventType.USE_UNKNOWN, "", Level.WARNING, fields), provider)

    # --- upstreams and the clock -------------------------------------------------------------------------------------

    def watched(self, upstreams: Mapping[str, RotatorError | None]) -> list[str]:
        """Report the upstreams that went down, need a person now, or came up. Return those that came up."""
        self._upstreams.keep_only(upstreams)
        recovered = []
        for name, error in upstreams.items():
            if error is not None:
                is_new = self._upstreams.count(name) == 1
                if (error.needs_a_person and self._upstreams.count(name, "person") == 1) or is_new:
                    fields: Fields = {"upstream": name, "error": error.message, "advice": error.advice}
                    self._emit(Event(EventType.UPSTREAM_DOWN, "", Level.of(error), fields))
            elif self._upstreams.resolve(Event(EventType.UPSTREAM_UP, fields={"upstream": name}), name):
                recovered.append(name)
        return recovered

    def timed(self, clock: SystemClock) -> None:
        """Report when upstreams contradict the clock, and when they agree again."""
        if clock.trusted():
            self._clock.resolve(Event(EventType.CLOCK_SKEW_RESOLVED, fields={"skews": clock.skews_in_words()}))
        else:
            self._clock.report(clock_skew(clock))


def is_known(error: RotatorError, provider: str, upstreams: Mapping[str, RotatorError | None]) -> bool:
    """Return whether the report of an upstream covers this error."""
    if isinstance(error, _NO_ANSWER) and isinstance(upstreams.get(f"provider {provider}"), _NO_ANSWER):
        return True
    return any(error is known for known in upstreams.values())


def _failures(swept: SweepReport, upstreams: Mapping[str, RotatorError | None]) -> Iterator[RotatorError]:
    """Yield the sweep's own error, and one error of its targets, preferably one that needs a person."""
    unknown = [error for error in swept.failed.values() if not is_known(error, swept.provider, upstreams)]
    if swept.error is not None and not is_known(swept.error, swept.provider, upstreams):
        yield swept.error
    yield from sorted(unknown, key=lambda error: not error.needs_a_person)[:1]


def _counted(swept: SweepReport) -> Fields:
    return {
        "provider": swept.provider,
        "listed": swept.listed,
        "orphans": len(swept.orphans),
        "emptied": len({orphan.target.name for orphan in swept.orphans if orphan.state is OrphanState.EMPTIED}),
        "unclaimed": len(swept.unclaimed),
        "others": swept.others,
        "to_work": len(swept.to_work),
        "unknown": len(swept.unknown),
    }


def _sweep_failed(swept: SweepReport, error: RotatorError, times: int) -> Event:
    fields: Fields = {
        "provider": swept.provider,
        "error": error.message,
        "advice": error.advice,
        "targets": len(swept.failed),
        "failures": times,
    }
    target = next((name for name, failure in swept.failed.items() if failure is error), "")
    return Event(EventType.SWEEP_FAILED, target, Level.of(error), fields)
