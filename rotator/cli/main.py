"""The command line: reads what was asked for, has it done, says what came of it, and ends with the right status.

0 done; 1 something could not be done; 2 usage or configuration; 3 provider or store unreachable or refused, so that
nothing could be tried; 4 as the command's help says. Nothing is decided here about keys.
"""

import contextlib
import os
import resource
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, NoReturn

import typer
from typer.core import TyperCommand

from rotator import __version__
from rotator.app.passes import troubles
from rotator.cli import output
from rotator.cli.check import OnlineFinding, online_findings, present_locations
from rotator.cli.context import (
    ATTENTION,
    DONE,
    NOT_ALL_DONE,
    NOTHING_TRIED,
    USAGE,
    Session,
    status_of,
    status_of_all,
    usage,
)
from rotator.cli.options import Common, with_options
from rotator.cli.remote import ask
from rotator.cli.status_table import say_status
from rotator.config.json_schema import json_schema
from rotator.config.values import parse_duration
from rotator.core.errors import (
    ConfigurationError,
    ProviderError,
    RotatorError,
)
from rotator.core.events import Event, EventType, Level
from rotator.core.keys import ListedKey
from rotator.core.orphans import Outcome
from rotator.core.plan import Reason, State
from rotator.core.request import SCHEDULED, RotationRequest
from rotator.core.target import Target
from rotator.core.times import timestamp
from rotator.daemon.signals import SIGNALS
from rotator.protocol.extend import ExtendableKey, living, misnamed
from rotator.protocol.reconciler import Report
from rotator.protocol.rollback import roll_back
from rotator.protocol.rotation import UNPUBLISHED, listed
from rotator.runtime.clock import SystemClock
from rotator.telemetry.logging import LogListener
from rotator.telemetry.metrics import Metrics
from rotator.telemetry.status import NOT_WELL, status_json, with_unenforced
from rotator.telemetry.wording import count


def _one_line(text: str | None) -> str | None:
    if text is not None and (len(text) > 200 or not text.isprintable()):
        usage("--reason: one line of at most 200 characters")
    return text


ReasonOption = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Why, for the log.", callback=_one_line)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
# Told of in each command's own text: the library's list of arguments shows Python's types.
TargetsArgument = Annotated[list[str] | None, typer.Argument(metavar="TARGET", hidden=True)]
AllOption = Annotated[bool, typer.Option("--all", help="Every configured target.")]

app = typer.Typer(
    name="rotator",
    help="Keeps short-lived Respan API keys fresh in HashiCorp Vault.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # they print local variables, keys included
)


class _Command(TyperCommand):
    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """The library writes what must be said as {TARGET}; nobody else does."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


def _command(name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return lambda function: app.command(name, cls=_Command)(with_options(function))


def main() -> None:
    """The console script. No core dump ever holds a key."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    output.take_stdout()
    execute()


def execute(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command, the process's own if none is given; whatever is raised ends in a sentence and a status."""
    common = Common()
    try:
        app(arguments, prog_name="rotator", obj=common)
    except SystemExit as ended:
        _end(ended.code)
    except RotatorError as error:
        failure = error
    if common.as_json:
        output.say_json(output.failure_json(failure))
    if isinstance(failure, ConfigurationError):
        output.complain(f"The configuration cannot be used ({count(len(failure.problems), 'problem')}):")
        for problem in failure.problems:
            output.complain(f"  {problem}")
        _end(USAGE)
    _complain(failure)
    _end(status_of(failure))


def _end(status: str | int | None) -> NoReturn:
    """End with this status; where the result could not be written, with none that says that all is known."""
    if (lost := output.lost()) is not None:
        if not isinstance(lost, BrokenPipeError):  # a closed pipe means that the reader has seen enough
            output.complain(f"rotator: the output cannot be written: {lost.strerror}")
        status = NOT_ALL_DONE if status in (None, DONE, ATTENTION) else status
    sys.exit(status)


def _complain(error: RotatorError) -> None:
    output.complain(f"rotator: {error.message}")
    if error.advice:
        output.complain(f"  {error.advice}")


# --- the daemon ------------------------------------------------------------------------------------------------------


@_command()
def run(
    common: Common,
    once: Annotated[bool, typer.Option("--once", help="Do all that is due now, open no port, and exit.")] = False,
) -> None:
    """Keep every target's key fresh, until TERM or INT.

    Signals: TERM or INT ends what is under way and stops, a second one stops at once; HUP reads the configuration
    again; USR1 rotates every target now.

    \b
    Example: rotator run --config /etc/rotator/rotator.toml
    """
    if once:
        _run_once(Session(common, "info"))
    common.begin_to_log("info")
    from rotator.daemon.main import Daemon  # starting is most of what a short command does: only this one needs it

    Daemon(common.config, os.environ, SystemClock(), Metrics(__version__), LogListener(), SIGNALS).run()


def _run_once(session: Session) -> NoReturn:
    for warning in session.configuration.warnings:
        fields = {"file": warning.file, "key": warning.key, "message": warning.message}
        session.emit(Event(EventType.CONFIGURATION_WARNING, level=Level.WARNING, fields=fields))
    reports = session.work("rotating what is due", list(session.installation.targets.values()), SCHEDULED)
    for report in reports:
        for event in troubles(report):
            session.emit(event)
    counted = [output.outcome(report) for report in reports]
    output.say(", ".join(f"{counted.count(word)} {word}" for word in ("rotated", "unchanged", "foreign", "failed")))
    raise typer.Exit(_finished(reports))


def _finished(reports: Sequence[Report]) -> int:
    if status := status_of_all(
        [report.error for report in reports], touched=any(r.rotated or r.rolled_back for r in reports)
    ):
        return status
    return NOT_ALL_DONE if any(output.outcome(report) == "foreign" for report in reports) else DONE


# --- on a person's word ----------------------------------------------------------------------------------------------


@_command()
def rotate(
    common: Common,
    targets:
    # Told of in each command's own text: the library's list of arguments shows Python's types.
    TargetsArgument = None,
    every: AllOption = False,
    revoke_now: Annotated[
        bool, typer.Option("--revoke-now", help="Remove the old keys at once: applications that still use them fail.")
    ] = False,
    adopt: Annotated[bool, typer.Option("--adopt", help="Take over a path that holds somebody else's data.")] = False,
    reason: ReasonOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give targets a new key now. The old keys work for their grace period.

    TARGET is a target's name; name as many as you like, or say --all: that takes half of the provider's requests, for a
    daemon needs the rest (with --revoke-now it takes all). So do more than can be rotated in a minute.

    \b
    Example: rotator rotate billing-api --reason "the key was in a screenshot" --revoke-now
    """
    session = Session(common, "info")
    session.emit = revoked = _Revoked()
    request = RotationRequest(rotate=True, revoke_now=revoke_now, adopt=adopt, by="command", comment=reason or "")
    chosen = session.chosen(targets, every)
    if not revoke_now and (every or session.is_long(chosen)):
        session.leave_half_of_the_budgets()
    try:
        reports = session.work("rotating", chosen, request)
        if revoke_now:
            reports = session.revoke_the_rest(reports, request)
    except KeyboardInterrupt:
        reports = [session.reports[target.name] for target in chosen if target.name in session.reports]
        _print(session, reports, revoked.keys, as_json=as_json, begun=len(reports), of=len(chosen))
        raise
    _print(session, reports, revoked.keys, as_json=as_json)
    raise typer.Exit(_finished(reports))


def _print(
    session: Session,
    reports: Sequence[Report],
    revoked: Mapping[str, Sequence[str]],
    *,
    as_json: bool,
    begun: int | None = None,
    of: int = 0,
) -> None:
    """What became of each target; of a command that was stopped, of those that it had `begun`."""
    if as_json:
        shown = [output.report_json(report, revoked.get(report.target.name, ())) for report in reports]
        output.say_json({**session.json(shown), **({} if begun is None else {"stopped": True})})
        return
    for report in reports:
        for line in output.report_lines(report, revoked.get(report.target.name, ())):
            output.say(line)
    if begun is not None:
        output.say(f"stopped: {begun} of {count(of, 'target')} done; the others are as they were")


class _Revoked(LogListener):
    """Notes which keys were revoked, by target: the last plan of a pass no longer lists them.

    And says what became of keys that were made in vain, which a pass may have left as an unknown outcome.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keys: defaultdict[str, list[str]] = defaultdict(list)

    def __call__(self, event: Event) -> None:
        """Log it."""
        super().__call__(event)
        if event.what is EventType.KEY_DELETED and event.fields["reason"] == Reason.REVOKED:
            self.keys[event.target].append(str(event.fields["key_id"]))
        if event.what is EventType.KEY_DELETED and event.fields["reason"] == UNPUBLISHED:
            output.complain(f"{event.target}: the key {event.fields['key_id']}, made in vain, was found and removed")


@_command()
def rollback(
    common: Common,
    target: Annotated[str, typer.Argument(metavar="TARGET", hidden=True)],
    reason: ReasonOption = None,
) -> None:
    """Serve a target's previous key again.

    If that still works; else nothing is changed. TARGET is the target's name.

    \b
    Example: rotator rollback billing-api
    """
    session = Session(common, "info")
    found = session.target(target)
    report = roll_back(
        session.installation.reconciler(found), found, RotationRequest(by="command", comment=reason or "")
    )
    _print(session, [report], {}, as_json=False)
    raise typer.Exit(_finished([report]))


@_command()
def extend(
    common: Common,
    lifetime: Annotated[str, typer.Option("--for", metavar="DURATION", help='From now on, as "24h".')],
    targets:
    # Told of in each command's own text: the library's list of arguments shows Python's types.
    TargetsArgument = None,
    every: AllOption = False,
    by_name: Annotated[
        bool,
        typer.Option(
            "--by-name",
            help="Without the store: extend keys, too, whose names show only the first 8 letters of the owner.",
        ),
    ] = False,
    reason: ReasonOption = None,
) -> None:
    """Break glass: let keys live longer without the store.

    Every unexpired key of the targets is prolonged, by the provider's list alone. TARGET is a target's name; name as
    many as you like, or say --all.

    For when the store cannot be written for long. Once it can be again, the keys are replaced as usual. What ends
    soonest is extended first. Where the store's login is $VAULT_TOKEN, that must be set; any text will do.

    Without the store a key is known by its name, which shows 8 letters of the owner. Keys that may be those of another
    installation, whose owner begins alike, are named and left as they are; --by-name confirms that they are yours.

    \b
    Example: rotator extend --all --for 24h
    """
    try:
        duration = parse_duration(lifetime)
    except ValueError as error:
        usage(f"--for {error}")
    session = Session(common, "info")
    chosen = session.chosen(targets, every)
    lists, errors = _lists(session, chosen)
    # By the providers' time, where they contradict this clock: an expiry is theirs to keep.
    until = (session.clock.now() - session.clock.disputed_by() + duration).replace(microsecond=0)
    found = _living(session, chosen, lists, errors, until, by_name=by_name)
    with session.progress("extending", len(found)) as advance:
        for one in sorted(found, key=lambda one: one.key.expires_at or until):
            became = one.extend(until, reason or "")
            errors.append(became if isinstance(became, RotatorError) else None)
            for line in output.extension_lines(one, became):
                output.say(line)
            advance()
    for reconciler, group in session.installation.groups(chosen):
        for name, why in misnamed(reconciler, lists[group[0].provider] or (), group, until).items():
            errors.append(why)
            for line in output.left_lines(name, why):
                output.say(line)
    raise typer.Exit(status_of_all(errors, touched=any(error is None for error in errors)))


def _lists(
    session: Session, chosen: Sequence[Target]
) -> tuple[dict[str, Sequence[ListedKey] | None], list[RotatorError | None]]:
    """Each provider's list, or None and an error."""
    errors: list[RotatorError | None] = []
    lists: dict[str, Sequence[ListedKey] | None] = {}
    with session.progress("listing the keys for targets", len(chosen)) as advance:
        for reconciler, group in session.installation.groups(chosen):
            provider = group[0].provider
            if provider not in lists:
                lists[provider] = None
                try:
                    lists[provider] = listed(reconciler.ports)
                except ProviderError as error:
                    errors.append(error)
                    _complain(error)
            for _ in group:
                advance()
    return lists, errors


def _living(
    session: Session,
    chosen: Sequence[Target],
    lists: Mapping[str, Sequence[ListedKey] | None],
    errors: list[RotatorError | None],
    until: datetime,
    *,
    by_name: bool,
) -> list[ExtendableKey]:
    """The keys to extend, by each provider's list. Adds to `errors` for each target without any: an error, or None."""
    owners = {session.configuration.owner, *session.configuration.former_owners}
    found: list[ExtendableKey] = []
    for reconciler, group in session.installation.groups(chosen):
        keys = lists[group[0].provider]
        mine, left = ([], {}) if keys is None else living(reconciler, keys, owners, group, until, by_name=by_name)
        found += mine
        for name, why in left.items():
            errors.append(why)
            for line in output.left_lines(name, why):
                output.say(line)
        for name in sorted({target.name for target in group} - {one.target.name for one in mine} - left.keys()):
            if keys is not None:
                output.say(f"{name}: no key that would end before {timestamp(until)}")
                errors.append(None)
    return found


# --- looking ---------------------------------------------------------------------------------------------------------


@_command("plan")
def plan_command(
    common: Common,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 4 when anything is due or drifted.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what would be done now. Touches nothing.

    \b
    Example: rotator plan --exit-code
    """
    session = Session(common, "warning")
    session.leave_half_of_the_budgets()  # a key in its grace is looked up, for each target
    statuses = session.look("looking", list(session.installation.targets.values()), confirm=True)
    if as_json:
        output.say_json(session.json([output.plan_json(status) for status in statuses]))
    else:
        for status in statuses:
            for line in output.plan_lines(status):
                output.say(line)
    if failed := status_of_all([status.error for status in statuses], touched=False):
        raise typer.Exit(failed)
    due = any(status.plan and status.plan.actions for status in statuses)
    raise typer.Exit(ATTENTION if exit_code and due else DONE)


@_command("status")
def status_command(
    common: Common,
    url: Annotated[str | None, typer.Option(metavar="URL", help="Ask a running daemon at its admin address.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how each target stands, worst first.

    Exits with 4 when any is failing, foreign, missing or unknown.

    From the store; or, with --url, from a running daemon, which knows the last errors too, and recent events.

    \b
    Example: rotator status --url http://127.0.0.1:9466
    """
    if url is not None:
        shown = ask(url)
    else:
        session = Session(common, "warning")
        looked = session.look("looking", list(session.installation.targets.values()), confirm=False)
        statuses = [with_unenforced(status, session.clock.now()) for status in looked]
        shown = status_json(session.configuration.owner, session.clock.now(), statuses)
        if status_of_all([status.error for status in statuses], touched=False) == NOTHING_TRIED:
            if as_json:
                output.say_json(shown)
            for error in {status.error.message: status.error for status in statuses if status.error}.values():
                _complain(error)
            raise typer.Exit(NOTHING_TRIED)
    say_status(shown, as_json=as_json)
    failing = any(State(target["state"]) in NOT_WELL for target in shown["targets"])
    raise typer.Exit(ATTENTION if failing else DONE)


@_command()
def check(
    common: Common,
    online: Annotated[bool, typer.Option("--online", help="Also try the credentials, permissions and paths.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check the configuration. Changes nothing.

    With --online also what it needs of the provider and the store: credentials, permissions, paths.

    \b
    Example: rotator check --online
    """
    session = Session(common, "warning")
    configuration = session.configuration
    warnings = configuration.warnings
    findings: list[OnlineFinding] = []
    locations: dict[str, dict[str, str]] = {}
    if online:
        session.leave_half_of_the_budgets()  # a list has as many pages as the organisation has keys
        with session.progress("checking the paths", len(configuration.targets)) as advance:
            findings = online_findings(session.installation, advance)
        locations = present_locations(session.installation)
    if as_json:
        output.say_json(
            {
                "file": str(common.config),
                "targets": len(configuration.targets),
                "problems": [],
                "warnings": [output.problem_json(warning) for warning in warnings],
                "budgets": [output.load_json(load) for load in configuration.loads],
                "findings": [output.finding_json(finding) for finding in findings],
                "locations": locations,
            }
        )
    else:
        for warning in warnings:
            output.say(f"warning: {warning}")
        for load in configuration.loads:
            output.say(f"budget: {load}")
        for name, location in locations.items():
            output.say(output.location_line(name, location))
        for finding in findings:
            output.say(f"{finding.where}: {finding.message}")
            if finding.advice:
                output.say(f"  {finding.advice}")
        tried = "; credentials, permissions and paths were tried" if online else ""
        bad = count(len(findings), "finding") if findings else "nothing wrong"
        read = f"{count(len(configuration.targets), 'target')}, {count(len(warnings), 'warning')}"
        output.say(f"{common.config}: {read}, {bad}{tried}")
    if not findings:
        raise typer.Exit(DONE)
    raise typer.Exit(NOTHING_TRIED if any(finding.unreachable for finding in findings) else NOT_ALL_DONE)


@_command()
def sweep(
    common: Common,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done; touch nothing.")] = False,
    max_orphans: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="NUMBER", help="If there are more orphans, touch none. Default: [sweep].max_orphans."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find and tidy away keys that nobody knows of.

    Keys that no version holds are let end after a grace period; served keys that are gone are replaced. Keys of others,
    and of targets that are not configured any more, are reported and never touched.

    \b
    Example: rotator sweep --dry-run
    """
    session = Session(common, "warning" if dry_run else "info")
    results = session.sweep(dry_run=dry_run, max_orphans=max_orphans)
    to_work = [target for swept in results for target in swept.to_work]
    errors: list[RotatorError | None] = []
    for swept in results:
        failed = list(swept.failed.values())
        looked_at = sum(target.provider == swept.provider for target in session.installation.targets.values())
        well = 0 if isinstance(swept.error, ProviderError) else looked_at - len(failed)
        errors += [*([swept.error] if swept.error else []), *failed, *[None] * well]
    touched = any(orphan.outcome in (Outcome.SHORTENED, Outcome.REMOVED) for s in results for orphan in s.orphans)
    if dry_run:
        statuses = session.look("looking", to_work, confirm=True)
        shown = [output.plan_json(status) for status in statuses]
        lines = [line for status in statuses for line in output.plan_lines(status)]
        errors += [status.error for status in statuses]
    else:
        reports = session.work("replacing and restoring", to_work, RotationRequest(by="command"))
        shown = [output.report_json(report) for report in reports]
        lines = [line for report in reports for line in output.report_lines(report)]
        errors += [report.error for report in reports]
        touched = touched or any(report.rotated for report in reports)
    if as_json:
        output.say_json({**session.json(shown), "providers": [output.sweep_json(swept) for swept in results]})
    else:
        for line in [line for swept in results for line in output.sweep_lines(swept)] + lines:
            output.say(line)
    raise typer.Exit(status_of_all(errors, touched=touched))


# --- trying it out ---------------------------------------------------------------------------------------------------


@_command()
def demo(
    common: Common,
    vault: Annotated[bool, typer.Option("--vault", help="Keep the keys in the Vault of $VAULT_ADDR.")] = False,
) -> None:
    """Watch keys live and die for 40 seconds.

    The vendor is the simulator, the lives are short, and a live table shows what happens. Nothing is left behind.

    With --vault the token of $VAULT_TOKEN needs create, read and update at secret/data/rotator-demo-*, read and delete
    at secret/metadata/rotator-demo-*, update at secret/destroy/rotator-demo-*.

    \b
    Example: rotator demo
    """
    from rotator.demo import show  # no other command needs it

    if vault and (unset := [f"${name}" for name in ("VAULT_ADDR", "VAULT_TOKEN") if not os.environ.get(name)]):
        usage(f"--vault needs {' and '.join(unset)} in the environment")
    common.begin_to_log("warning")
    # As Ctrl-C does: what was made is removed, and then it ends.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise typer.Exit(show(vault=vault, environment=os.environ, is_lost=lambda: output.lost() is not None))


@_command()
def simulate(
    common: Common,
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="0 takes a free one.")] = 8765,
    requests_per_minute: Annotated[int, typer.Option(min=0, metavar="NUMBER", help="0 is no limit.")] = 60,
    switches: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            show_default=False,
            help="How the vendor behaves where its documents disagree, as below; may be said several times.",
        ),
    ] = None,
) -> None:
    """Run the Respan simulator, until it is stopped.

    Faults are asked of it over HTTP, from this machine: docs/simulator.md.

    \b
    What may be --set, the default first:
      list_shape=page|array  page_size=100|NUMBER
      created_field=created_at|created  create_status=201|NUMBER
      delete_status=204|NUMBER  auth_status=401|NUMBER
      invalid_status=400|NUMBER  deleted=revoked|plain|404
      id_shape=uuid|tk|tmpkey|prefix  name_max=50|NUMBER
      older_fields=false|true  plan_rate_limit=none|NUMBER
      limits_permission=false|true  expiry_shift_s=0|NUMBER
      expiry_round_s=0|NUMBER  expired_listed=true|false  slash=404|301
      requests_per_minute=60|NUMBER|none  retry_after=body|header|both|none
      strangers_list=refused|empty  call_cost_usd=0.01|NUMBER

    \b
    Example: rotator simulate --port 8765 --set list_shape=array --set auth_status=403
    """
    from rotator.simulator import Options, Simulator, with_switches  # no other command needs it

    common.begin_to_log("warning")
    try:
        options = with_switches(Options(requests_per_minute=requests_per_minute or None), switches or ())
    except ValueError as error:
        usage(f"--set: {error}")
    simulator = Simulator(port=port, options=options)
    try:
        simulator.start()
    except OSError as error:
        raise RotatorError(f"port {port} cannot be listened on: {error.strerror}", "Name another, or 0.") from None
    with contextlib.ExitStack() as stack:
        stack.callback(simulator.stop)
        output.say(f'base_url = "{simulator.url}"')
        # Not by `say`, which would hide it: this key is made up, and somebody is to use it.
        sys.stdout.write(f"export RESPAN_API_KEY={simulator.organisation_key}\n")
        if output.lost() is not None:
            raise typer.Exit(NOT_ALL_DONE)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            simulator.serve_forever()


@_command()
def schema(common: Common) -> None:
    """Print the JSON Schema of the configuration.

    \b
    Example: rotator schema > config.schema.json
    """
    common.begin_to_log("warning")
    output.say_json(json_schema())


def _version(wanted: bool) -> None:
    if wanted:
        output.say(f"rotator {__version__}")
        raise typer.Exit


def _program(
    common: Common,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.callback()(with_options(_program, environment=True))
