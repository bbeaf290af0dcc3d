"""One pass over one target, counted and reported; work on many at once, through a bounded pool; a sweep over all.

The daemon, `run --once`, `rotate` and the demo all work through here. When to work is not decided here.
"""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from datetime import datetime
from typing import TypeVar

from rotator.app.wiring import Installation
from rotator.core.errors import ClockDisagrees, ProviderError, RotatorError
from rotator.core.events import Event, EventType, Fields, Level
from rotator.core.plan import Plan
from rotator.core.reasons import EARLY_HOLDS, Reason, State
from rotator.core.request import ACT, SCHEDULED, PassOptions, RotationRequest
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.core.versions import Record
from rotator.protocol.reconciler import Report
from rotator.protocol.sweeper import Sweeper, SweepReport
from rotator.runtime.clock import SystemClock
from rotator.runtime.threads import start
from rotator.telemetry.logging import unexpected
from rotator.telemetry.metrics import FAILURE, LOST, SUCCESS, Metrics

T = TypeVar("T")
R = TypeVar("R")


def work_on(
    installation: Installation,
    metrics: Metrics,
    target: Target,
    request: RotationRequest = SCHEDULED,
    options: PassOptions = ACT,
    planned: Callable[[Plan], object] = lambda _: None,
) -> Report:
    """Make one pass over one target, and count it. Raises nothing of ours."""
    clock = installation.clock
    started = clock.monotonic()
    try:
        report = installation.reconciler(target).reconcile(target, request, options, planned)
    except Exception as error:
        installation.emit(unexpected("working on a target", error, target.name))
        return Report(target, None, fault(error))
    if report.attempted is not None:
        outcome = SUCCESS if report.rotated else FAILURE if report.error else LOST
        metrics.rotation(target.provider, report.attempted, outcome, clock.monotonic() - started)
    if report.kept:
        metrics.retirement(FAILURE)
    return report


def fault(error: BaseException) -> RotatorError:
    """Return the error for an exception that rotator did not foresee."""
    return RotatorError(
        f"a fault in rotator: {type(error).__name__}",
        "Please report it, with the traceback in the log (unexpected_error). `rotator status` shows what is served.",
    )


def in_threads(
    threads: int, items: Collection[T], work: Callable[[T], R], interrupted: Callable[[], object] = lambda: None
) -> Iterator[R]:
    """Yield the result of each item as it is done.

    After an exception, or where the caller stops early, nothing more begins and `interrupted` is called; then the work
    under way ends. Where the machine has too few threads, fewer work; where it has none, this one does.
    """
    todo = deque(items)
    done: queue.SimpleQueue[Future[R]] = queue.SimpleQueue()

    def work_off() -> None:
        with contextlib.suppress(IndexError):  # nothing is left to do
            while True:
                item, future = todo.popleft(), Future[R]()
                try:
                    future.set_result(work(item))
                except BaseException as error:
                    future.set_exception(error)
                done.put(future)

    started: list[threading.Thread] = []
    try:
        with contextlib.suppress(RotatorError):
            for number in range(min(threads, len(items))):
                started.append(start(threading.Thread(target=work_off, name=f"worker-{number}")))
        if not started:
            work_off()
        for _ in items:
            yield done.get().result()
    except BaseException:
        # A person pressed Ctrl-C, or there is a fault in rotator: begin nothing more, end what is under way.
        todo.clear()
        interrupted()
        raise
    finally:
        for thread in started:
            thread.join()


def sweep_all(
    installation: Installation,
    metrics: Metrics,
    *,
    by: str = "schedule",
    dry_run: bool = False,
    max_orphans: int | None = None,
    stopping: Callable[[], bool] = lambda: False,
    interrupted: Callable[[], object] = lambda: None,
) -> Iterator[SweepReport]:
    """Sweep each provider's keys, and count it. Yield each report as it is made: no provider waits for a slow one.

    Raises nothing of ours.
    """

    def sweep(sweeper: Sweeper) -> SweepReport:
        try:
            return sweeper.sweep(by=by, dry_run=dry_run, max_orphans=max_orphans, stopping=stopping)
        except Exception as error:
            installation.emit(unexpected(f"sweeping the keys of {sweeper.provider}", error))
            return SweepReport(sweeper.provider, error=fault(error))

    sweepers = installation.sweepers.values()
    complete = True
    for swept in in_threads(len(sweepers), sweepers, sweep, interrupted):
        metrics.orphans(swept.orphans)
        if not isinstance(swept.error, ProviderError):  # else the list was not read, and nothing is known anew
            metrics.unknown_served_keys(swept.provider, len(swept.unknown))
            metrics.reports_use(swept.provider, shown=installation.use_watches[swept.provider].shows_use())
        complete = complete and swept.complete
        yield swept
    if complete and not stopping():
        metrics.swept(installation.clock.now())


def troubles(report: Report, failures: int = 1, retry_at: datetime | None = None) -> Iterator[Event]:
    """Yield what a log needs of a pass that did not go well: what failed, what it means, and what happens next."""
    target, plan, error = report.target, report.plan, report.error
    if plan is not None and plan.state is State.FOREIGN and not plan.actions:
        fields = {"path": target.path, "reason": plan.reason.value, "advice": adoption_advice(target, plan.reason)}
        yield Event(EventType.TARGET_FOREIGN, target.name, Level.ERROR, fields)
    if Reason.EMPTIED in (report.attempted, plan and plan.reason):
        yield Event(EventType.PATH_EMPTIED, target.name, Level.WARNING, _emptied(target))
    for record in plan.untrusted if plan else ():
        left_alone = {"key_id": record.key_id, "key_name": record.key_name}
        yield Event(EventType.KEY_OWNERSHIP_MISMATCH, target.name, Level.ERROR, left_alone)
    yield from _of_caps(target, plan) if plan else ()
    if error is None:
        return
    yield Event(
        EventType.TARGET_FAILED,
        target.name,
        Level.of(error),
        {
            "error": error.message,
            "advice": error.advice,
            "failures": failures,
            "served": served(plan),
            **({"retry_at": timestamp(retry_at)} if retry_at else {}),
        },
    )


def clock_skew(clock: SystemClock) -> Event:
    """Return what a log needs of a clock that upstreams contradict."""
    error = ClockDisagrees()
    fields = {"skews": clock.skews_in_words(), "error": error.message, "advice": error.advice}
    return Event(EventType.CLOCK_SKEW_DETECTED, "", Level.ERROR, fields)


def _of_caps(target: Target, plan: Plan) -> Iterator[Event]:
    """Yield what a log needs of a cap that is spent or nearly spent."""
    if plan.current is None or plan.use is None or not plan.is_nearly_spent:
        return
    use, replaces = plan.use, target.caps.replaces
    about: Fields = {
        "key_id": plan.current.key_id,
        "cap": use.cap.option,
        "used": _whole(use.used),
        "limit": _whole(use.cap.limit),
        "as_of": timestamp(use.as_of),
    }
    if use.is_spent:
        advice = (
            f"`rotator rotate {target.name}` makes a new key, whose cap begins anew. Raise the cap if it is too small."
        )
        yield Event(EventType.KEY_SPENT, target.name, Level.ERROR, {**about, "advice": advice})
    else:
        spent_at = {"spent_at": timestamp(use.spent_at)} if use.spent_at else {}
        yield Event(
            EventType.KEY_NEARLY_SPENT, target.name, Level.INFO if replaces else Level.WARNING, {**about, **spent_at}
        )
    if plan.reason in EARLY_HOLDS:
        held = {"key_id": plan.current.key_id, "reason": plan.reason.value}
        yield Event(EventType.EARLY_ROTATION_HELD, target.name, Level.WARNING, held)


def _whole(amount: float) -> float:
    return int(amount) if float(amount).is_integer() else amount  # what a plugin shows may be an int


def _emptied(target: Target) -> Fields:
    return {
        "path": target.path,
        "error": f"{target.path} is absent, and has held keys that may still be used. It looks like "
        "`vault kv metadata delete` or a new mount",
        "advice": "Find out who emptied it. rotator publishes a new key. The sweep after that gives the old keys one "
        "more grace period; if there are more than max_orphans of them, they work until they expire.",
    }


def served(plan: Plan | None) -> str:
    """Return what the applications have, in words."""
    if plan is None:
        return "an unknown key, because the path could not be read: most likely the same as before"
    if plan.state is State.FOREIGN:
        return "data that rotator did not write"
    if plan.reason is Reason.EMPTIED:
        return "the key that they read before: the path is absent, and an application that starts now finds no key"
    if plan.current is None or plan.state is State.MISSING:
        return "no live key"
    return f"the key {plan.current.key_id}, {lifetime(plan.current, plan)}"


def lifetime(current: Record, plan: Plan) -> str:
    """Return until when the current key works, in words."""
    return "which never expires" if plan.is_endless else f"until {timestamp(current.expires_at)}"


def adoption_advice(target: Target, reason: str) -> str:
    """Return what a person can do about a path that holds another writer's data; `reason` is why it is foreign."""
    renamed = reason == Reason.OTHER_OWNER
    return (
        f"{'If `owner` was changed, add the former one to `former_owners`. ' if renamed else ''}"
        f"If rotator is meant to keep {target.path}, run `rotator rotate {target.name} --adopt`: "
        "the key's field is overwritten, its other fields stay, and the overwritten key works until you revoke it."
    )
