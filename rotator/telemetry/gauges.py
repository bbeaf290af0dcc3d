"""Writes the gauges that follow from the daemon's status, in Prometheus' text format.

Without prometheus-client, which takes twice as long for the forty thousand series of ten thousand targets.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Literal

from rotator.core.caps import CapState
from rotator.core.plan import Plan, Retire
from rotator.core.reasons import State
from rotator.core.renewal import margin
from rotator.core.superseded import Superseded
from rotator.core.versions import Record
from rotator.telemetry.status import DaemonInfo, DaemonStatus

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def family(
    name: str, text: str, label: str, values: Mapping[str, float | None], kind: Literal["gauge", "counter"] = "gauge"
) -> str:
    """Return one metric's series by the values of its label, without those that are None."""
    head = f"# HELP rotator_{name} {text}\n# TYPE rotator_{name} {kind}\n"
    series = f'rotator_{name}{{{label}="%s"}} %s\n'
    return head + "".join(
        [series % (of.translate(_ESCAPES), float(value)) for of, value in values.items() if value is not None]
    )


def _single(name: str, text: str, value: float | None) -> str:
    return f"# HELP rotator_{name} {text}\n# TYPE rotator_{name} gauge\n" + (
        f"rotator_{name} {float(value)}\n" if value is not None else ""
    )


def gauges(status: DaemonStatus, *, each: bool) -> Iterator[str]:
    """Yield the metrics. Those of single targets only if the replica leads and `each` is set."""
    info = status.daemon
    yield _single("leader", "1 if this replica acts, 0 if it stands by.", float(info.leads))
    states = Counter(target.state for target in status.targets)
    yield family("targets", "Targets in each state.", "state", {state.value: states[state] for state in State})
    plans = {target.target.name: target.plan for target in status.targets if target.plan}
    served = {name: plan.current for name, plan in plans.items() if plan.current}
    rotations = {name: plan.next_rotation_at for name, plan in plans.items()}
    left = {name: [key for key in plan.superseded if _is_left(key, plan, status.at)] for name, plan in plans.items()}
    used = _superseded_in_use(status)
    if each and info.leads:
        yield from _of_each(served, rotations, left)
        yield from _of_use({name: plan.use for name, plan in plans.items() if plan.use})
        yield from _of_stale_consumers(used)
    yield _single(
        "keys_nearly_spent",
        "Served keys that have used `replace_at` of a cap, or will soon have used it all, and that are not spent.",
        sum(plan.is_nearly_spent and plan.use is not None and not plan.use.is_spent for plan in plans.values()),
    )
    yield _single(
        "earliest_superseded_key_in_use_expiry_timestamp_seconds",
        "When the first superseded key of all targets that is in use ends. Absent while none is in use.",
        _first(end for keys in used.values() for key in keys if (end := key.works_until)),
    )
    yield _single(
        "superseded_keys_past_grace",
        "Superseded keys of all targets whose grace is over and that are not removed.",
        sum(key.until <= status.at for keys in left.values() for key in keys),
    )
    yield _single(
        "earliest_key_expiry_timestamp_seconds",
        "When the first of all served keys expires.",
        _first(record.expires_at for record in served.values()),
    )
    yield _single(
        "earliest_rotation_timestamp_seconds",
        "When the first of all served keys is replaced.",
        _first(at for at in rotations.values() if at),
    )
    yield _single(
        "min_renewal_margin_ratio",
        "The smallest share of the time from due to expiry that a served key has left; over 1: none is due.",
        min((margin(record.expires_at, rotations[name], status.at) for name, record in served.items()), default=None),
    )
    yield _single(
        "sweep_interval_seconds",
        "The time between two sweeps: `[sweep].interval`.",
        info.sweep_interval.total_seconds(),
    )
    yield from _of_upstreams(info)


def _of_each(
    served: Mapping[str, Record], rotations: Mapping[str, datetime | None], left: Mapping[str, list[Superseded]]
) -> Iterator[str]:
    yield family(
        "key_expiry_timestamp_seconds",
        "When the served key expires; if it never does, by when it is to be replaced.",
        "target",
        {name: record.expires_at.timestamp() for name, record in served.items()},
    )
    yield family(
        "key_issued_timestamp_seconds",
        "When the served key was created.",
        "target",
        {name: record.issued_at.timestamp() for name, record in served.items()},
    )
    yield family(
        "next_rotation_timestamp_seconds",
        "When the served key is replaced, for the first of all reasons.",
        "target",
        {name: _seconds(at) for name, at in rotations.items()},
    )
    yield family(
        "superseded_keys",
        "Superseded keys that are not removed yet.",
        "target",
        {name: len(keys) for name, keys in left.items()},
    )


def _of_use(use: Mapping[str, CapState]) -> Iterator[str]:
    yield family(
        "key_use_ratio",
        "The share of a cap that the served key has used; of several caps, the one that `status` names. Absent while "
        "unknown.",
        "target",
        {name: state.ratio for name, state in use.items()},
    )
    yield family(
        "key_spent_timestamp_seconds",
        "When the cap was first seen spent, or will be spent at the present rate. Absent if that is not in sight.",
        "target",
        {name: _seconds(state.spent_at) for name, state in use.items()},
    )


def _superseded_in_use(status: DaemonStatus) -> Mapping[str, list[Superseded]]:
    """Return the superseded keys that are used, by target: only where use is known."""
    return {
        one.target.name: [key for key in keys if key.is_used(one.target.idle_after, status.at)]
        for one in status.targets
        if one.plan and (keys := [key for key in one.plan.superseded if key.use is not None])
    }


def _of_stale_consumers(used: Mapping[str, list[Superseded]]) -> Iterator[str]:
    yield family(
        "superseded_keys_in_use",
        "Superseded keys that were used since they were replaced, and within `idle_after`. Absent while unknown.",
        "target",
        {name: len(keys) for name, keys in used.items()},
    )
    yield family(
        "superseded_key_in_use_expiry_timestamp_seconds",
        "When the first superseded key that is in use ends, so that its consumer is refused.",
        "target",
        {name: _first(end for key in keys if (end := key.works_until)) for name, keys in used.items() if keys},
    )


def _of_upstreams(info: DaemonInfo) -> Iterator[str]:
    yield family(
        "provider_budget_used_ratio",
        "The share of a provider's request budget that the last minute used.",
        "provider",
        info.budgets,
    )
    yield family(
        "store_token_expiry_timestamp_seconds",
        "When the token for a store expires, unless it is renewed.",
        "store",
        {name: _seconds(end) for name, end in info.logins.items()},
    )
    yield family(
        "clock_skew_seconds",
        "How far this machine's clock is ahead of an upstream's, by the upstream's answers.",
        "upstream",
        {upstream: skew.total_seconds() for upstream, skew in info.skews.items()},
    )
    yield family(
        "log_lines_dropped_total",
        "Log lines that were not written, because the log was not read.",
        "kind",
        info.log_lines_dropped,
        "counter",
    )


def _is_left(key: Superseded, plan: Plan, now: datetime) -> bool:
    """Return whether a superseded key still works, or is still to be removed.

    A key that is gone does not count, even if another writer's fields keep its versions. A key that has another place's
    name is not ours to remove, and counts while it works.
    """
    if key.other_name is not None:
        return key in plan.unenforced(now)
    if key.until > now or key.to_destroy:
        return True
    return any(isinstance(action, Retire) and action.key.key_id == key.key_id for action in plan.actions)


def _first(moments: Iterable[datetime]) -> float | None:
    return _seconds(min(moments, default=None))


def _seconds(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment else None
