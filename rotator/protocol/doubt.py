"""Asks for the served keys that a provider's list lacks, one by one, when a sweep has read every path.

A list may be late, filtered or another organisation's, so each key is looked up before it counts as gone. Where most
served keys are missing, a few answers are enough to see that the list is right: the others are not asked for.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from rotator.core.errors import ProviderError, RotatorError, StoreError
from rotator.core.observation import cut_short, is_gone
from rotator.core.ports import Budget
from rotator.core.target import Target
from rotator.protocol.recognition import is_most
from rotator.protocol.reconciler import Reconciler

SAMPLE = 3
"""Look-ups that fail in a row, of a list that lacks most served keys, after which the rest counts as unknown too."""

Missing = tuple[Reconciler, Target]


@dataclass(slots=True)
class Answers:
    """What came of the look-ups: targets by what has to be done about them."""

    unknown: list[Target] = field(default_factory=list)
    to_work: list[Target] = field(default_factory=list)
    failed: dict[str, RotatorError] = field(default_factory=dict)


def look_up_each(missing: Sequence[Missing], served: int, budget: Budget, listed: Collection[str]) -> Answers:
    """Look up the served keys of these targets, which are not among the `listed` live ones, of `served` in all.

    The path is read again: it may serve another key by now, which is left to the next sweep.
    """
    answers = Answers()
    for number, (reconciler, target) in enumerate(missing):
        if number >= SAMPLE and len(answers.unknown) == number and is_most(len(missing), served):
            answers.unknown += [target for _, target in missing[number:]]
            break
        try:
            observation = reconciler.read_current(target)
            record = observation.current.record if observation.current else None
            now = reconciler.ports.clock.now()
            if record is None or record.key_id in listed or record.expires_at <= now:
                continue
            observation = reconciler.look_up(observation, record, budget)
        except (StoreError, ProviderError) as error:
            answers.failed[target.name] = error
            reconciler.memory.look_closer(target)
            continue
        if is_gone(observation, now):
            answers.unknown.append(target)
        elif cut_short(observation, record, now):
            answers.to_work.append(target)
    return answers
