"""The real protocol with one rule taken away, to see that the simulation notices.

A mutation replaces a text of one function of rotator, which must be there exactly once, and puts the function's new
code in the place of the old: whoever imported it by name runs the mutant. Nothing in rotator/ knows of this.
"""

import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from rotator import execute, model, plan, publish, sweep
from simulation.invariants import GRACE_CUT, LEAKED, NOT_HEALED, NOT_OURS, REPEATED, SERVED, UNPROVEN

Executor, Sweeper = execute.Executor, sweep.Sweeper


@dataclass(frozen=True, slots=True)
class Edit:
    """One text of one function, and what stands there instead."""

    function: Callable[..., Any]
    old: str
    new: str


@contextmanager
def edited(edits: Iterable[Edit]) -> Iterator[None]:
    """All of these are made; the functions are themselves again afterwards."""
    by_function: dict[FunctionType, list[Edit]] = {}
    for edit in edits:
        assert isinstance(edit.function, FunctionType)
        by_function.setdefault(edit.function, []).append(edit)
    originals = {function: function.__code__ for function in by_function}
    try:
        for function, its in by_function.items():
            source = textwrap.dedent(inspect.getsource(function))
            for edit in its:
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
    """A rule taken away, the profile whose schedules notice it soonest, and the promises that it carries."""

    profile: str
    breaks: tuple[str, ...]
    edits: tuple[Edit, ...]


MUTATIONS = {
    "no fence": Mutation(
        "races",
        (SERVED, GRACE_CUT),
        (
            Edit(Sweeper._tidy, "orphan.ahead and", "False and"),
            Edit(Sweeper._end, "still.ahead and not fence", "False"),
        ),
    ),
    "history read before the list": Mutation(
        "races",
        (SERVED, GRACE_CUT),
        (
            Edit(
                Sweeper.sweep,
                "    try:\n        keys =",
                "    self._early = {}\n"
                "    try:\n"
                "        for executor, target in self._targets():\n"
                "            self._early[target.name] = executor.observe(target)\n"
                "    except StoreError as error:\n"
                "        return Swept(self._provider, error=error)\n"
                "    try:\n        keys =",
            ),
            Edit(Sweeper._compare, "_read(executor, target, mine)", "self._early[target.name]"),
            Edit(Sweeper._end, "executor.observe(target)", "self._early[target.name]"),
            Edit(Sweeper._end, "too_old or unfenced or observation.history.current_version < (fence or 0)", "unfenced"),
        ),
    ),
    "delete after giving up": Mutation(
        "races",
        (SERVED, GRACE_CUT),
        (Edit(Executor._rotate, "self._left_behind(", "self._discard(target, created.id, name); (lambda *_: 0)("),),
    ),
    "blind retry of create": Mutation(
        "races",
        (REPEATED,),
        (
            Edit(
                Executor._rotate,
                "        self._remove_stray(target, name)\n        raise\n",
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
                "written is not None and written.data is not None and history.current_version > base",
                "True",
            ),
        ),
    ),
    "no name check": Mutation(
        "meddling",
        (NOT_OURS,),
        (Edit(model.Scope.owns, "parsed is not None and parsed.place in self.places", "True"),),
    ),
    "no fingerprint": Mutation(
        "meddling",
        (NOT_OURS,),
        (
            Edit(
                model.read_version,
                "holder is None or (holder != target.field and target.field in version.data)",
                "False",
            ),
        ),
    ),
    "delete before destroy": Mutation(
        "rollbacks",
        (SERVED,),
        (Edit(Executor._retire, "    if numbers:", "    self.ports.provider.delete(key.key_id)\n    if numbers:"),),
    ),
    "shorten to now": Mutation(
        "races", (GRACE_CUT,), (Edit(plan.superseded_keys, "since + observation.target.grace_period", "since"),)
    ),
    "no proof that it can be stored": Mutation(
        "mixed", (UNPROVEN,), (Edit(Executor._rotate, "ports.store.prove(", "(lambda *_: 0)("),)
    ),
    "orphans deleted at once": Mutation(
        "races",
        (GRACE_CUT, SERVED),
        (Edit(Sweeper._end, "not ports.provider.set_expiry(key.id, until)", "ports.provider.delete(key.id) or True"),),
    ),
    "strays are left": Mutation("races", (LEAKED,), (Edit(Sweeper.sweep, "elif not dry_run:", "elif False:"),)),
    "what is rolled back to is not restored": Mutation(
        "rollbacks", (NOT_HEALED,), (Edit(plan._restore, "if cut_short", "if False"),)
    ),
    "a served key that is gone is not looked for": Mutation(
        "meddling", (NOT_HEALED,), (Edit(Sweeper._learn, "if key is None or", "if False and"),)
    ),
}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """The protocol without this rule; with "" as it is."""
    with edited(MUTATIONS[name].edits if name else ()):
        yield
