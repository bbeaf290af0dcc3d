"""Shared by the commands that work on an installation: loading it, and passes over many targets with progress."""

import difflib
import itertools
import math
import os
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Self

from rotator import __version__
from rotator.app.passes import clock_skew, in_threads, sweep_all, work_on
from rotator.app.wiring import Installation
from rotator.cli.command import Common, LogLevel, stop_on_sigterm
from rotator.cli.exit_status import usage_error
from rotator.cli.progress import Advance, progress
from rotator.cli.remote import request_look
from rotator.cli.streams import print_error
from rotator.cli.use import UseReader
from rotator.config.loader import load
from rotator.core.errors import ProviderError, ProviderRateLimited, RotatorError, StoreError
from rotator.core.events import AUDIT, Event
from rotator.core.keys import ListedKey
from rotator.core.orphans import by_place
from rotator.core.plan import Plan, Rotate, deadline, plan
from rotator.core.ports import Listener
from rotator.core.request import RotationRequest
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.protocol.observer import list_keys
from rotator.protocol.reconciler import Report
from rotator.protocol.revoke import not_revoked, revoke_the_unheld
from rotator.protocol.sweeper import SweepReport
from rotator.providers.registry import installed_types
from rotator.runtime.clock import SystemClock
from rotator.runtime.rate_limit import REQUESTS_PER_ROTATION
from rotator.telemetry.logging import flush, log_event
from rotator.telemetry.metrics import Metrics
from rotator.telemetry.status import TargetStatus
from rotator.telemetry.wording import count

SHOWN = 20
"""How many of the targets that a pattern matches are named."""

TRIES_AFTER_429 = 3
"""How often a command retries what the provider refused with 429."""


class Session:
    """One command's configuration, installation, clock and metrics. A context manager: it closes the installation."""

    def __init__(self, common: Common, default_level: LogLevel, *, as_daemon: bool = False) -> None:
        """`as_daemon`: it plans as a daemon does. Raises `ConfigurationError`."""
        common.start_logging(default_level)
        self.emit: Listener = log_event
        self.configuration = load(common.config, os.environ, installed_types())
        self.clock = SystemClock()
        self.metrics = Metrics(__version__)
        self.reports: dict[str, Report] = {}  # of the passes that `work` has finished, by target
        self._url, self._as_daemon = common.url, as_daemon
        self._has_changed = False  # whether this command changed a key or a path
        self._at_end = ExitStack()
        self._at_end.callback(self._inform_daemon)
        self._at_end.callback(flush)  # the log comes before what is printed last
        stop_on_sigterm()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._at_end.close()

    @cached_property
    def installation(self) -> Installation:
        """The installation. Building it creates the files of stores and reads credentials, so it waits until needed.

        Raises `RotatorError`.
        """
        built = Installation(
            self.configuration, os.environ, self.clock, self.metrics, self._on_event, as_daemon=self._as_daemon
        )
        self._at_end.callback(built.close)
        self._at_end.callback(self._remove_strays, built)
        self._at_end.callback(self._report_clock)
        return built

    def _on_event(self, event: Event) -> None:
        self._has_changed = self._has_changed or event.what in AUDIT
        self.emit(event)

    def _inform_daemon(self) -> None:
        if self._url and self._has_changed:
            request_look(self._url)

    def _report_clock(self) -> None:
        """Report a wrong clock: at the end of the command the upstreams' answers have shown their time."""
        if not self.clock.trusted():
            self.emit(clock_skew(self.clock))

    def _remove_strays(self, installation: Installation) -> None:
        """Look for keys whose creation was not confirmed: no later process knows of them."""
        waiting = [strays for strays in installation.strays.values() if strays.waiting]
        if waiting:
            with self.progress("removing unconfirmed keys", len(waiting)) as advance:
                for strays in waiting:
                    strays.remove(at_last=True)
                    advance()

    def chosen(self, names: Sequence[str] | None, every: bool) -> list[Target]:
        """Return the targets that the command line names, by name or by pattern, each once."""
        if bool(names) == every:
            usage_error("name the targets, or use --all")
        if not names:
            if not self.configuration.targets:
                usage_error(f"no target is configured in {self.configuration.file}")
            return [*self.configuration.targets.values()]
        chosen = (target for name in names for target in self._matching(name))
        return [*{target.name: target for target in chosen}.values()]

    def _matching(self, pattern: str) -> list[Target]:
        """Return the targets of a name or a pattern, and print which a pattern matches."""
        if not any(sign in pattern for sign in "*?["):
            return [self.target(pattern)]
        found = [target for name, target in self.configuration.targets.items() if fnmatchcase(name, pattern)]
        if not found:
            usage_error(f"no target in {self.configuration.file} matches {pattern!r}")
        names = ", ".join([target.name for target in found[:SHOWN]] + ["..."] * (len(found) > SHOWN))
        print_error(f"{pattern} matches {count(len(found), 'target')}: {names}")
        return found

    def target(self, name: str) -> Target:
        """Return a configured target. Ends the command with status 2 if there is none of that name."""
        found = self.configuration.targets.get(name)
        if found is None:
            close = difflib.get_close_matches(name, self.configuration.targets, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            usage_error(f"there is no target {name!r} in {self.configuration.file}{hint}")
        return found

    def work(self, what: str, targets: Collection[Target], request: RotationRequest) -> list[Report]:
        """Make one pass over each target, with progress. Return the reports in the order of the targets.

        Long work starts with the key that expires first, so the targets are read before it. A pass that the provider
        refused with 429 is retried: a running daemon uses the same rate limit.
        """
        by_need = list(targets)
        if self.is_long(targets):
            now, plans = self.clock.now(), {s.target.name: s.plan for s in self.look(targets, confirm=False)}
            by_need.sort(key=lambda target: deadline(found, now) if (found := plans[target.name]) else now)

        def one(target: Target) -> Report:
            report = reports[target.name] = work_on(self.installation, self.metrics, target, request)
            return report

        def again(before: Report) -> Report:
            """Retry what is left; a pass that created a key creates no second one."""
            left = replace(request, rotate=False, adopt=False) if before.rotated else request
            report = work_on(self.installation, self.metrics, before.target, left)
            return replace(report, rotated=True, attempted=before.attempted) if before.rotated else report

        workers = self.configuration.daemon.workers
        reports = self.reports = {}
        with self.progress(what, len(targets)) as advance:
            for _ in in_threads(workers, by_need, one, self.stop_waiting):
                advance()
            for _ in range(TRIES_AFTER_429):  # the budget waits as long as the provider asked for
                limited = [report for report in reports.values() if isinstance(report.error, ProviderRateLimited)]
                if not limited:
                    break
                for report in in_threads(workers, limited, again, self.stop_waiting):
                    reports[report.target.name] = report
        return [reports[target.name] for target in targets]

    def revoke_the_rest(self, reports: Sequence[Report], request: RotationRequest) -> list[Report]:
        """Revoke the keys that no version holds, for the targets whose pass had no error: one list per provider."""
        after = {report.target.name: report for report in reports}
        lists: dict[str, dict[str, list[ListedKey]]] = {}
        well = [report.target for report in reports if report.error is None]
        with self.progress("revoking orphaned keys", len(well)) as advance:
            for observer, targets in self.installation.groups(well):
                provider, unlisted = targets[0].provider, None
                try:
                    lists[provider] = lists.get(provider) or by_place(list_keys(observer.ports, self.clock.now()))
                except ProviderError as error:
                    unlisted = error
                for target in targets:
                    report = after[target.name]
                    failure: RotatorError | None = unlisted
                    for _ in range(0 if unlisted else 1 + TRIES_AFTER_429):
                        failure = revoke_the_unheld(observer, target, lists[provider], request)
                        if not isinstance(failure, ProviderRateLimited):
                            break
                    after[target.name] = replace(report, error=failure or next(not_revoked(target, report.plan), None))
                    advance()
        return list(after.values())

    def stop_waiting(self) -> None:
        """Drop the requests that wait for a budget: the command ends."""
        for budget in self.installation.budgets.values():
            budget.close()

    def is_long(self, targets: Collection[Target]) -> bool:
        """Return whether rotating all of them may need more requests than a provider allows in a minute."""
        counted, budgets = Counter(target.provider for target in targets), self.installation.budgets
        return any(REQUESTS_PER_ROTATION * number > budgets[provider].limit for provider, number in counted.items())

    def leave_half_of_the_budgets(self) -> None:
        """Use half of each rate limit, so that a running daemon can keep rotating: a process counts only its own."""
        for budget in self.installation.budgets.values():
            budget.limit = max(1, budget.limit // 2)

    def progress(self, what: str, total: int) -> AbstractContextManager[Advance]:
        """Show the progress of work on `total` targets, and whether it waits for a provider's rate limit."""
        return progress(what, total, self._waits)

    def _waits(self) -> str:
        limited, awaited = [], []
        for name, budget in self.installation.budgets.items():
            if seconds := budget.paused():
                limited.append(f"{name} answered 429 (too many requests): waiting for {math.ceil(seconds)} s")
            elif budget.awaited():
                awaited.append(f"{name} ({budget.limit} requests a minute)")
        return "; ".join([*limited, *([f"waiting for the rate limit of {', '.join(awaited)}"] if awaited else [])])

    def read_use(self, targets: Collection[Target]) -> UseReader | None:
        """Read what keys with caps have used, for `look`; None where no provider shows that."""
        reader = UseReader(self.installation, targets)
        if not reader.providers:
            return None
        with self.progress("reading the use of keys", len(reader.providers)) as advance:
            for _ in in_threads(len(reader.providers), reader.providers, reader.read_list, self.stop_waiting):
                advance()
        for error in reader.errors.values():
            print_error(f"rotator: the use of keys is unknown: {error.message}")
        return reader

    def look(self, targets: Collection[Target], *, confirm: bool, use: UseReader | None = None) -> list[TargetStatus]:
        """Return the status of each target. Changes nothing; `confirm`: also ask the provider what the plan needs."""

        def one(target: Target) -> TargetStatus:
            observer = self.installation.observer(target)
            try:
                observation = observer.observe(target)
                observation = use.look_up(observer, observation) if use else observation
            except StoreError as error:
                return TargetStatus(target, None, error)
            made = plan(observation, self.clock.now())
            try:
                if confirm or _may_be_extended(target, made):
                    made = plan(observer.confirm(observation), self.clock.now())
            except ProviderError as error:
                return TargetStatus(target, made, error)
            return TargetStatus(target, made, None)

        statuses: dict[str, TargetStatus] = {}
        with self.progress("looking", len(targets)) as advance:
            workers = self.configuration.daemon.workers
            for status in in_threads(workers, targets, one, self.stop_waiting):
                statuses[status.target.name] = status
                advance()
        return [statuses[target.name] for target in targets]

    def sweep(self, *, dry_run: bool, max_orphans: int | None) -> list[SweepReport]:
        """Sweep the keys of all providers."""
        total = len(self.installation.targets)
        with self.progress("sweeping", total) as advance:
            asked = itertools.count()

            def stopping() -> bool:  # called before each target, and later before each orphan
                if 0 < next(asked) <= total:
                    advance()
                return False

            swept = sweep_all(
                self.installation,
                self.metrics,
                by="command",
                dry_run=dry_run,
                max_orphans=max_orphans,
                stopping=stopping,
                interrupted=self.stop_waiting,
            )
            return sorted(swept, key=lambda one: one.provider)

    def json(self, targets: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the result of a command on targets, for `--json`."""
        return {"owner": self.configuration.owner, "at": timestamp(self.clock.now()), "targets": targets}


def _may_be_extended(target: Target, made: Plan) -> bool:
    """Return whether a pause may have extended the served key, so that it lasts until a window opens.

    Only the provider shows that.
    """
    rotates = any(isinstance(action, Rotate) for action in made.actions)
    return target.pause_until is not None or (bool(target.windows) and rotates)
