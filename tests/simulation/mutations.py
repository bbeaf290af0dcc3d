"""The real protocol with one rule taken away, to see that the simulation notices.

A mutation replaces a named predicate of rotator as a whole (`Stub`), or a text that one function must have exactly once
(`Edit`). It exchanges the function's code: modules that imported the function by name run the mutant too.
"""

import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FunctionType
from typing import Any

from rotator.core import caps, due, expiry, keys, observation, orphans, plan, renewal, superseded, use, windows
from rotator.core import versions as model
from rotator.protocol import comparison, memory, observer, orphan_cleanup, places, publish, recognition
from rotator.protocol import reconciler as execute
from rotator.protocol import rotation as rotate
from rotator.protocol import sweeper as sweep
from simulation.caps import CALLED_OK, EAGER, EARLY, EXTENDED, HASTY, IN_USE, SPENT, UNUSED
from simulation.invariants import (
    ANOTHERS,
    DOUBTED,
    DROPPED,
    ENDLESS,
    FAULT,
    GRACE_CUT,
    HEAPED,
    IDLE,
    IN_VAIN,
    LATE,
    LEAKED,
    MASS,
    NEEDLESS,
    NOT_HEALED,
    NOT_HELD,
    NOT_OURS,
    OLD,
    REPEATED,
    SECOND_GRACE,
    SERVED,
    TOO_LONG,
    TOO_MANY,
    UNDONE,
    UNPROVEN,
    UNSETTLED,
)
from simulation.settings import PROFILES, Profile

Reconciler, Rotation, Memory, Sweeper = execute.Reconciler, rotate.Rotation, memory.Memory, sweep.Sweeper
Comparison, OrphanCleanup = comparison.Comparison, orphan_cleanup.OrphanCleanup


@dataclass(frozen=True, slots=True)
class Edit:
    """One text of one function, and what stands there instead."""

    function: Callable[..., Any]
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Stub:
    """One function, and another one of the same arguments in its place. It sees the globals of the first."""

    function: Callable[..., Any]
    instead: Callable[..., Any]


@contextmanager
def edited(edits: Iterable[Edit | Stub]) -> Iterator[None]:
    """Make all of these; afterwards the functions have their own code again."""
    by_function: dict[FunctionType, list[Edit | Stub]] = {}
    for edit in edits:
        assert isinstance(edit.function, FunctionType)
        by_function.setdefault(edit.function, []).append(edit)
    originals = {function: function.__code__ for function in by_function}
    try:
        for function, its in by_function.items():
            [first, *_] = its
            if isinstance(first, Stub):
                assert isinstance(first.instead, FunctionType)
                assert its == [first], f"{function.__qualname__} is both replaced and edited"
                function.__code__ = first.instead.__code__
                continue
            source = textwrap.dedent(inspect.getsource(function))
            for edit in its:
                assert isinstance(edit, Edit)
                assert source.count(edit.old) == 1, f"{function.__qualname__} has not exactly one {edit.old!r}"
                source = source.replace(edit.old, edit.new)
            namespace = dict(function.__globals__)
            exec(compile(source, function.__code__.co_filename, "exec"), namespace)
            function.__code__ = namespace[function.__name__].__code__
        yield
    finally:
        for function, code in originals.items():
            function.__code__ = code


@dataclass(frozen=True, slots=True)
class Mutation:
    """A rule taken away, the profile whose schedules notice it soonest, and the promises that it carries.

    `first` is the schedule to begin with, for a rule that few schedules notice. It may be any: the code decides.
    `drawn` are ranges in place of the profile's, for a rule that matters in few of its schedules.
    """

    profile: str
    breaks: tuple[str, ...]
    edits: tuple[Edit | Stub, ...]
    first: int = 0
    drawn: Mapping[str, Any] = field(default_factory=dict)

    @property
    def schedules(self) -> Profile:
        """What its schedules are drawn from."""
        return replace(PROFILES[self.profile], **self.drawn)


REPLACED = {"replaces": (1,), "most_early": (1, 2), "rate": (0.2, 0.5), "shows": (1, 3), "hand": (0.0,)}
"""Keys are replaced early as often as the bound lets them."""

EXTENDED_GRACE = {"extension": (300,), "shows": (2, 3), "stuck": (1,), "rate": (0.05,)}
"""Grace follows use, and a consumer uses a superseded key as long as it works."""

REUSED = {"reuses": (1, 2), "targets": (1, 2), "hand": (1.0,), "deeds": {"revoke at vendor": 3, "add field": 1}}
"""People remove served keys, and the vendor gives their ids to the next ones."""


MUTATIONS = {
    "no fence": Mutation(
        "races",
        (SERVED, GRACE_CUT),
        (
            Edit(OrphanCleanup._clean_up_path, "orphan.is_to_fence and", "False and"),
            Edit(OrphanCleanup._is_still, "still.is_to_fence and not fence", "False"),
        ),
        first=26,
    ),
    "history read before the list": Mutation(
        "races",
        (SERVED, GRACE_CUT),
        (
            Edit(
                Sweeper.sweep,
                "    try:\n        listing =",
                "    try:\n"
                "        for observer, target in self._targets():\n"
                "            observer.__dict__.setdefault('early', {})[target.name] = observer.observe(target)\n"
                "    except RotatorError as error:\n"
                "        return SweepReport(self.provider, error=error)\n"
                "    try:\n        listing =",
            ),
            Edit(Comparison._compare, "_read(observer, target, [*mine, *unreadable])", "observer.early[target.name]"),
            Edit(OrphanCleanup._is_still, "observer.observe(orphan.target)", "observer.early[orphan.target.name]"),
            Edit(
                OrphanCleanup._is_still,
                "observer.is_too_old(observation) or unfenced or observation.history.current_version < (fence or 0)",
                "unfenced",
            ),
        ),
    ),
    "delete after giving up": Mutation(
        "races",
        (SERVED, GRACE_CUT),
        (
            Edit(
                Rotation._publish,
                "emit_not_removed(",
                "self._discard(target, record, request); (lambda *_: 0)(",
            ),
        ),
        drawn={"unknown": (0.5,), "kill": (0.0,)},
        first=50,
    ),
    "blind retry of create": Mutation(
        "races",
        (REPEATED,),
        (
            Edit(
                Rotation._make,
                "        ports.strays.look_for(target, name, request)\n        raise\n",
                "        created = ports.provider.create(name, target.parameters, asked)\n",
            ),
        ),
    ),
    "no cas": Mutation(
        "races",
        (SERVED, GRACE_CUT),
        (Edit(publish.publish, "cas=base", "cas=store.history(target.path).current_version"),),
    ),
    "refused publish judged by what a read shows": Mutation(
        "races",
        (SERVED, GRACE_CUT),
        (
            Edit(
                publish._judge,
                "    if mismatch:\n",
                "    if mismatch:\n        return None\n",
            ),
        ),
        drawn={"unknown": (0.3,), "stale": (0.3,)},
    ),
    "a refusal of a write is believed": Mutation(
        "races",
        (SERVED, GRACE_CUT),
        (
            Edit(
                publish.publish,
                "return _judge(",
                "return None if not isinstance(refusal, CasMismatch) else _judge(",
            ),
        ),
    ),
    "a path that looks unchanged proves that a refused write did not land": Mutation(
        "races",
        (SERVED, GRACE_CUT),
        (Edit(publish._judge, "    raise refusal\n", "    return None\n"),),
        drawn={"stale": (0.4,), "refused": (0.1,)},
    ),
    "no name check": Mutation(
        "meddling",
        (NOT_OURS,),
        (Stub(model.Scope.owns, lambda *_: True),),
        first=32,
    ),
    "a key that has the id of another is taken for it": Mutation(
        "no-expiry-change",
        (NOT_HEALED, LEAKED),
        (Stub(observation.Observation.is_another, lambda *_: False),),
        drawn=REUSED,
    ),
    "an orphan that has a recorded id is held, whatever its name": Mutation(
        "no-expiry",
        (LEAKED,),
        (Edit(orphans.orphans, "key.id in held and not observation.is_another(key)", "key.id in held"),),
        drawn=REUSED,
    ),
    "no fingerprint": Mutation(
        "meddling",
        (NOT_OURS,),
        (
            Edit(
                model.read_version,
                "holder is None or (holder != target.key_field and target.key_field in version.data)",
                "False",
            ),
        ),
    ),
    "delete before destroy": Mutation(
        "rollbacks",
        (SERVED,),
        (Edit(Reconciler._retire, "    if numbers:", "    self._ports.provider.delete(key.key_id)\n    if numbers:"),),
        first=52,
    ),
    "shorten to now": Mutation(
        "races", (GRACE_CUT,), (Edit(superseded.superseded_keys, "since + observation.target.grace_period", "since"),)
    ),
    "no proof that it can be stored": Mutation(
        "mixed", (UNPROVEN,), (Edit(Rotation._make, "ports.store.preflight(", "(lambda *_: 0)("),)
    ),
    "orphans deleted at once": Mutation(
        "races",
        (GRACE_CUT, SERVED),
        (
            Edit(
                OrphanCleanup._end,
                "set_expiry(ports, key.id, asked.request, deadline)",
                "ports.provider.delete(key.id)",
            ),
        ),
    ),
    "strays are left": Mutation("races", (LEAKED,), (Edit(Sweeper.sweep, "elif not dry_run:", "elif False:"),)),
    "what is rolled back to is not restored": Mutation(
        "rollbacks", (NOT_HEALED,), (Stub(plan._restore, lambda _: ()),), first=350
    ),
    "a served key that is gone is not looked for": Mutation(
        "meddling",
        (NOT_HEALED,),
        (
            Edit(
                Comparison._learn,
                "return observer.look_up(observation, served, self._ports.budget)",
                "return observation",
            ),
            Edit(Comparison._look_up_missing, "in enumerate(self._missing)", "in enumerate(())"),
        ),
        first=54,
    ),
    "a sweep ends at the first target that the provider refuses": Mutation(
        "meddling",
        (NOT_HEALED, LEAKED),
        (
            Edit(
                Sweeper._compare,
                "comparison.compare(observer, target)",
                "comparison.compare(observer, target)\n        if comparison._failed:\n            break",
            ),
            Edit(Comparison._compare, "self._fail(observer, target, error)", "raise"),
        ),
        first=395,
    ),
    "a key that the provider does not show yet is missing": Mutation(
        "mixed", (NEEDLESS,), (Stub(observer.Observer._may_be_hidden, lambda *_: False),), first=101
    ),
    "a waiting key that the provider does not show yet is given up": Mutation(
        "mixed",
        (HEAPED,),
        (Edit(Rotation._made_before, "found is None and record.is_younger(", "False and ("),),
        drawn={
            "hidden": (20.0,),
            "settle": (60,),
            "refused": (0.1,),
            "unknown": (0.12,),
            "skew": (0.0,),
            "changes": (0.0,),
            "hand": (0.0,),
        },
    ),
    "an entry of others that cannot be read ends the sweep": Mutation(
        "races",
        (LEAKED,),
        (
            Edit(
                Sweeper.sweep,
                "listing = list_keys(self._ports, deadline)\n",
                "listing = list_keys(self._ports, deadline)\n"
                "        if not all(isinstance(key, ProviderKey) for key in listing):\n"
                "            raise ProviderError('an entry cannot be read')\n",
            ),
        ),
    ),
    "old knowledge is acted on": Mutation(
        "races",
        (OLD,),
        (
            Edit(
                observer.Observer.is_too_old,
                "self.ports.clock.monotonic() - observation.answered_at > MAX_AGE",
                "False",
            ),
        ),
    ),
    "an answer is as old as its read was long": Mutation(
        "races", (LEAKED, UNDONE), (Edit(observer.Observer.is_too_old, "took > MAX_READ", "took > MAX_AGE"),)
    ),
    "a slow store prevents rotations": Mutation(
        "races",
        (NOT_HEALED, LATE),
        (
            Edit(observer.Observer.is_too_old, "took > MAX_READ", "took > MAX_AGE"),
            Edit(Reconciler._takes_permit, "and not isinstance(action, Rotate)", ""),
        ),
    ),
    "a sweep acts on old knowledge": Mutation(
        "races", (OLD,), (Edit(OrphanCleanup._is_still, "observer.is_too_old(observation) or", ""),)
    ),
    "an orphan is shortened on the list's word": Mutation(
        "races",
        (SECOND_GRACE,),
        (Edit(OrphanCleanup._end, "found = ports.provider.retrieve(orphan.key.id)", "found = orphan.key"),),
    ),
    "one look at the newest version is enough, whatever its number": Mutation(
        "races",
        (UNDONE,),
        (
            Edit(
                Memory.newest_suffices,
                "known == current.number",
                "True",
            ),
        ),
        first=26,
    ),
    "one look at the newest version is enough, however young": Mutation(
        "races", (UNDONE,), (Edit(Memory.newest_suffices, "self._is_swept and is_old", "self._is_swept"),), first=30
    ),
    "what is rolled back to is not looked up": Mutation(
        "rollbacks", (UNDONE,), (Edit(superseded.to_confirm, "() if known else (current.record,)", "()"),)
    ),
    "as many orphans as there are": Mutation(
        "meddling",
        (TOO_MANY,),
        (Edit(orphans.reason_to_hold, "to_end > limit", "False"),),
        drawn={"max_orphans": (1,)},
    ),
    "nothing settles": Mutation("mixed", (UNSETTLED,), (Edit(orphans.orphans, "elif unsettled(key):", "elif False:"),)),
    "a create that was not answered is forgotten": Mutation(
        "races", (IN_VAIN,), (Edit(Rotation._make, "ports.strays.look_for(target, name, request)", "pass"),), first=23
    ),
    "a create that was refused is believed": Mutation(
        "mixed",
        (IN_VAIN,),
        (Edit(Rotation._make, "except ProviderError:", "except ProviderOutcomeUnknown:"),),
        first=10,
    ),
    "an answer to a create is believed, whatever its name": Mutation(
        "mixed", (ANOTHERS,), (Edit(rotate._mismatch, 'created.name not in ("", name)', "False"),), first=18
    ),
    "an answer to a create is believed that shows no name": Mutation(
        "mixed",
        (ANOTHERS,),
        (Edit(Rotation._recognise, "not created.name or", ""),),
        drawn={"targets": (3,), "mixed_up": (0.4,)},
    ),
    "an answer to a create is believed, whatever its id": Mutation(
        "mixed",
        (SERVED, GRACE_CUT),
        (Edit(rotate._mismatch, "any(created.id == record.key_id for record in records)", "False"),),
        drawn={"mixed_up": (0.4,)},
        first=23,
    ),
    "an answer to a create is believed, whatever its text": Mutation(
        "mixed",
        (SERVED, GRACE_CUT),
        (
            Edit(
                rotate._mismatch,
                "has_text or any(fingerprint == record.key for record in records)",
                "False",
            ),
        ),
        first=82,
    ),
    "a key whose write was not answered is not offered again": Mutation(
        "mixed", (HEAPED,), (Stub(Rotation._made_before, lambda *_: None),), first=21
    ),
    "a longer life than asked for is believed": Mutation(
        "mixed",
        (TOO_LONG,),
        (Edit(Rotation._believe, "answered is None or _is_longer(created, asked)", "answered is None"),),
        drawn={"odd_grants": (0.3,)},
    ),
    "an expiry that was rounded down is left": Mutation(
        "races", (GRACE_CUT,), (Stub(expiry.corrected, lambda *_: None),), first=42
    ),
    "a key's life is counted by a clock that all others contradict": Mutation(
        "mixed", (TOO_LONG,), (Stub(rotate.earliest_now, lambda clock: clock.now()),), first=22
    ),
    "a rollback is not held": Mutation(
        "rollbacks", (NOT_HELD,), (Stub(renewal.rolled_back_at, lambda _: None),), first=29
    ),
    "who does not lead acts": Mutation("mixed", (IDLE,), (Stub(rotate.may_act, lambda *_: True),)),
    "who does not lead any more makes a key": Mutation(
        "mixed", (IDLE,), (Edit(Rotation._make, "not may_act(ports, request)", "False"),)
    ),
    "what was seen before an extend is believed": Mutation(
        "extends",
        (GRACE_CUT,),
        (Stub(superseded.is_known, lambda observation, key: key.key_id in observation.shown),),
        first=33,
    ),
    "a record vouches for the key it names": Mutation(
        "meddling",
        (NOT_OURS,),
        (
            Edit(Memory.note_listed, "not scope.owns(key.name)", "False"),
            Edit(Memory.note_listed, "key.name != served.key_name or ", ""),
        ),
        first=71,
    ),
    "what others wrote beside the key is dropped": Mutation(
        "meddling", (DROPPED,), (Stub(observation.Observation.preserved_fields, lambda _: {}),)
    ),
    "a provider that knows no key is believed": Mutation(
        "strange", (MASS,), (Stub(recognition.is_most, lambda *_: False),)
    ),
    "a pass believes it though no sweep has compared": Mutation(
        "strange", (MASS,), (Edit(recognition.Recognition.believes, "self._first == target", "True"),), first=149
    ),
    "what was said while most were unknown is believed later": Mutation(
        "strange", (DOUBTED, MASS), (Edit(Comparison._learn, "observation.is_gone(self._ports.clock.now())", "False"),)
    ),
    "a contest is not noticed": Mutation("contests", (ENDLESS,), (Stub(renewal.contested_until_of, lambda _: None),)),
    "a contest is noticed only while the versions are there": Mutation(
        "contests", (ENDLESS,), (Edit(renewal.made_keys, "dict(remembered)", "{}"),)
    ),
    "a former place is forgotten": Mutation(
        "mixed",
        (LEAKED,),
        (Edit(places.locations, "former = [*store.former_locations(target.path)]", "former = list[str]()"),),
    ),
    "a field that is not known makes a record unreadable": Mutation(
        "mixed",
        (NOT_HEALED, LEAKED, LATE, UNDONE),
        (Edit(model._split, "unknown.append(part)", "values[name] = value"),),
    ),
    "a field that is not known is dropped where a key is published again": Mutation(
        "meddling", (DROPPED,), (Edit(model.Record.format, "(*known, *self.unknown)", "known"),), first=96
    ),
    "an expiry is set where that cannot be done": Mutation(
        "no-expiry-change", (FAULT,), (Edit(plan.plan, "not observation.traits.can_set_expiry", "False"),)
    ),
    "a superseded key that no expiry ends is left": Mutation(
        "no-expiry",
        (LEAKED,),
        (Edit(plan.plan, "isinstance(action, SetExpiry)", "isinstance(action, SetExpiry | Retire)"),),
    ),
    "a longer life than asked for is recorded where that cannot be corrected": Mutation(
        "no-expiry-change", (TOO_LONG,), (Edit(Rotation._believe, "return min(asked, answered)", "return answered"),)
    ),
    "a key that never expires ends as recorded": Mutation(
        "no-expiry",
        (GRACE_CUT,),
        (Stub(observation.Observation.own_end, lambda _, record: record.expires_at),),
        first=59,
    ),
    "a rollback to a key that never expires is hardly held": Mutation(
        "no-expiry",
        (NOT_HELD,),
        (Edit(renewal.renewal_of, "else observation.target.lead", "else observation.target.lead / 8"),),
        drawn={
            "targets": (1,),
            "hand": (1.0,),
            "deeds": {"rollback": 1},
            "commands": (0.0,),
            "changes": (0.0,),
            "unknown": (0.0,),
            "stale": (0.0,),
            "forced": (0.3,),
        },
    ),
    "an orphan that no expiry ends is deleted at once": Mutation(
        "no-expiry-change",
        (GRACE_CUT, SERVED),
        (Edit(orphans._grace, "grace.until <= now - observation.clock_ahead", "True"),),
    ),
    "an orphan that no expiry ends is deleted without a fence": Mutation(
        "no-expiry-change",
        (GRACE_CUT, SERVED),
        (Edit(orphans._grace, "version == observation.history.current_version + 1", "False"),),
        drawn={"freeze": (0.1,), "forced": (0.1,), "kill": (0.0,), "hand": (0.0,), "commands": (0.0,)},
        first=40,
    ),
    "the grace of an orphan begins again with each sweep": Mutation(
        "no-expiry",
        (LEAKED,),
        (Edit(orphans._grace, "_unserved_since(observation, key, version, before) or now", "now"),),
    ),
    "what a sweep remembers of an orphan's grace is forgotten": Mutation(
        "no-expiry",
        (LEAKED,),
        (Stub(OrphanCleanup.found_before, lambda *_: None),),
        drawn={"dated": (0,)},
    ),
    "what a sweep remembers of an orphan's grace holds for good": Mutation(
        "no-expiry",
        (GRACE_CUT,),
        (Edit(orphans._unserved_since, "latest[-1].created_at < before.found_at", "True"),),
        drawn={
            "targets": (1,),
            "replicas": (1,),
            "workers": (2,),
            "max_versions": (2,),
            "settle": (0,),
            "dated": (0,),
            "forced": (0.6,),
            "kill": (0.0,),
            "unknown": (0.0,),
            "stale": (0.0,),
            "freeze": (0.0,),
            "changes": (0.0,),
            "commands": (0.0,),
            "leading": (0,),
            "hand": (1.0,),
            "deeds": {"delete": 1, "revive": 1},
            "reuses": (0,),
        },
        first=79,
    ),
    "any version shows since when an orphan is not served": Mutation(
        "no-expiry",
        (GRACE_CUT,),
        (Edit(orphans._unserved_since, "entry.number >= version and entry.created_at >= made_at", "True"),),
        first=191,
    ),
    "a due key does not wait for a window": Mutation(
        "windows",
        (NEEDLESS,),
        (Edit(renewal._permitted, "not target.windows and not is_paused(target, now)", "True"),),
    ),
    "a key waits for a window that opens too late": Mutation(
        "windows",
        (LATE, UNDONE),
        (Edit(renewal._permitted, "due > limit and not (is_paused(target, now) and now < limit)", "False"),),
    ),
    "a pause holds nothing back": Mutation(
        "pauses", (NEEDLESS,), (Edit(renewal.permitted_from, "target.pause_until or AT_ONCE", "AT_ONCE"),)
    ),
    "a window that is open does not count": Mutation(
        "windows", (UNDONE, NEEDLESS), (Edit(windows.opened_at, "moment - window.duration", "moment"),)
    ),
    "more orphans that no expiry ends are deleted than are allowed": Mutation(
        "no-expiry-change", (TOO_MANY,), (Edit(orphans.reason_to_hold, "to_end > limit", "False"),), first=24
    ),
    "the bound counts the early rotations that this process remembers": Mutation(
        "use",
        (EARLY,),
        (
            Edit(
                caps.early_rotations,
                "made.update(_early_in(entry.record))",
                "made |= {entry.record.issued_at} if entry.record.why == Reason.NEARLY_SPENT and entry.key_id in "
                "observation.use else set()",
            ),
        ),
        drawn=REPLACED,
    ),
    "early rotations are forgotten with their versions": Mutation(
        "use",
        (EARLY,),
        (Edit(Rotation._make, "early=carried(observation, ports.clock.now())", 'early=""'),),
        drawn=REPLACED,
        first=7,
    ),
    "why a key was made is not recorded": Mutation(
        "use", (EARLY,), (Edit(Rotation._make, "why=action.reason.value", 'why=""'),), drawn=REPLACED
    ),
    "versions that alone show an early rotation are destroyed": Mutation(
        "use",
        (EARLY,),
        (Stub(caps.shows_more_early, lambda *_: False),),
        drawn={**REPLACED, "hand": (1.0,), "deeds": {"rollback": 1}},
    ),
    "the bound of early rotations is not kept": Mutation(
        "use", (EARLY,), (Stub(due._exhausted, lambda *_: None),), drawn=REPLACED
    ),
    "the bound's day lasts a minute": Mutation(
        "use",
        (EARLY,),
        (Edit(caps.early_rotations, "now - DAY - FUTURE", "now - timedelta(minutes=1)"),),
        drawn=REPLACED,
    ),
    "a key is replaced early before its consumers have it": Mutation(
        "use", (HASTY,), (Stub(due._picked_up_lately, lambda *_: None),), drawn=REPLACED, first=93
    ),
    "the rate of use is that of the whole life": Mutation(
        "steady",
        (SPENT,),
        (
            Edit(
                use.UseSeries.rate,
                "max((self.mean_rate(cap, since), *self._slopes(cap)))",
                "self.mean_rate(cap, since)",
            ),
        ),
        drawn={"begins": (600.0,), "vanishes": (0,)},
        first=32,
    ),
    "what is left is not compared with the rate": Mutation(
        "steady",
        (SPENT,),
        (Edit(caps.is_cap_nearly_spent, "state.left <= RESERVE * state.rate * time.total_seconds()", "False"),),
        drawn={"vanishes": (0,)},
        first=6,
    ),
    "hot keys are not looked up": Mutation(
        "steady", (SPENT,), (Stub(caps.is_hot, lambda *_: False),), drawn={"vanishes": (0,)}, first=6
    ),
    "a spent key is called ok": Mutation(
        "steady", (CALLED_OK,), (Edit(plan._state_and_reason, "if is_spent:", "if False:"),), drawn={"replaces": (0,)}
    ),
    "unknown use counts as none": Mutation(
        "steady",
        (EAGER, SPENT),
        (
            Edit(
                keys.ProviderKey.seen_at,
                "self if self.use is None else replace(self, use=replace(self.use, as_of=moment))",
                "replace(self, use=replace(self.use or KeyUse((__import__('rotator.core.use', fromlist=['']).CapUse("
                "'max_usage', 0.0),)), as_of=moment))",
            ),
        ),
        drawn={"vanishes": (1,)},
        first=22,
    ),
    "a superseded key that may be extended is not shortened first": Mutation(
        "steady",
        (UNDONE, EXTENDED),
        (Stub(superseded.expiry_to_set, lambda key, target, now: key.latest or key.until),),
        drawn=EXTENDED_GRACE,
    ),
    "a superseded key is extended as long as it is used": Mutation(
        "steady",
        (EXTENDED,),
        (
            Edit(
                superseded._latest, "min(bound, record.expires_at - 2 * TOLERANCE)", "record.expires_at - 2 * TOLERANCE"
            ),
        ),
        drawn={**EXTENDED_GRACE, "extension": (60,)},
    ),
    "a superseded key is extended past its recorded expiry": Mutation(
        "use",
        (EXTENDED,),
        (Edit(superseded._latest, "min(bound, record.expires_at - 2 * TOLERANCE)", "bound"),),
        drawn=EXTENDED_GRACE,
    ),
    "an extended grace begins again when a later key is retired": Mutation(
        "use",
        (EXTENDED,),
        (
            Edit(
                superseded._follower,
                "entry.record is not None or entry.number in destroyed",
                "entry.record is not None",
            ),
        ),
        drawn={**EXTENDED_GRACE, "forced": (0.3,), "hand": (0.0,)},
        first=6,
    ),
    "a grace begins again when the key that followed expires": Mutation(
        "use",
        (EXTENDED,),
        (Stub(superseded._outlived, lambda *_: iter(())),),
        first=900_200,
        drawn={"extension": (0,)},
    ),
    "an extension is rounded past its bound": Mutation(
        "steady",
        (EXTENDED,),
        (Edit(plan._set_expiry, "request > latest", "False"),),
        drawn=EXTENDED_GRACE,
        first=39,
    ),
    "a superseded key that is not used is extended": Mutation(
        "steady",
        (UNUSED,),
        (Stub(superseded.last_use_since, lambda use, since: use and use.as_of),),
        drawn={**EXTENDED_GRACE, "stuck": (0,)},
    ),
    "a superseded key is not looked at before it ends": Mutation(
        "steady", (IN_USE,), (Stub(superseded.is_to_look_at, lambda *_: False),), drawn=EXTENDED_GRACE
    ),
}


# What only a unit test can notice, because another rule heals it before a promise is broken:
#
#   a key that is gone at any version counts (`plan._gone`)    unit/test_plan.py, test_what_was_seen_of_a_key_before_…
#   what a pause extends is looked up, and may be gone       unit/test_pause.py: a sweep heals it, or a person decides
#   a rollback carries the early rotations                     the versions that show them are kept until a record does
#   the key that has a known id by now is another one          unit/test_reused_ids.py: only served keys are removed by
#                                                              hand in a schedule, and their ids given again at once


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """The protocol without this rule; with "" as it is."""
    with edited(MUTATIONS[name].edits if name else ()):
        yield
