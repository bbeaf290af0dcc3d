"""The JSON of `status --json` and of a daemon's `/status.json`: one model for the writer and for the reader.

Unknown fields are accepted and kept: a newer daemon may have more of them.
"""

from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from rotator.core.reasons import State
from rotator.core.times import timestamp


def _known(state: Any) -> Any:
    return state if state in tuple(State) else State.UNKNOWN


Moment = Annotated[AwareDatetime, PlainSerializer(timestamp)]
KnownState = Annotated[State, BeforeValidator(_known)]
"""A state that only a newer version has counts as unknown."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    def to_json(self) -> dict[str, Any]:
        """Return the model for `json.dumps`."""
        return self.model_dump(mode="json")


class UsedJson(_Model):
    """How much of a cap was used; `unit` is empty where it is not configured."""

    cap: str
    unit: str
    used: float


class SupersededJson(_Model):
    """A superseded key; `until` is None if it never expires."""

    key_id: str
    until: Moment | None
    last_used_at: Moment | None = None
    """None if it was never used, or if the provider does not show it."""
    used_since: tuple[UsedJson, ...] = ()
    """What was used since the key was replaced, from the first look after that."""


class PickupJson(_Model):
    """One rotation: how long the provider shows consumers that still used the key that it replaced."""

    key_id: str
    replaced_at: Moment
    last_used_at: Moment | None
    seconds: float


class UseJson(_Model):
    """How much of a cap the served key has used: of several caps, the one that is spent soonest if
    the key is nearly spent, else the one with the largest share."""

    ratio: float = Field(ge=0, le=10**9)
    cap: str
    as_of: Moment
    spent_at: Moment | None
    """When the cap was first seen spent, or will be at the present rate; None if that is not in sight."""


class TargetJson(_Model):
    """One target."""

    name: str
    state: KnownState
    path: str
    key_id: str | None
    issued_at: Moment | None
    expires_at: Moment | None
    next_rotation_at: Moment | None
    window: str | None = None
    """The next rotation in the zone of the target's windows; None if it has none."""
    reason: str | None
    superseded: tuple[SupersededJson, ...]
    use: UseJson | None = None
    """None if the provider does not show it."""
    caps: tuple[str, ...] = ()
    """The caps that the target's keys have."""
    pickups: tuple[PickupJson, ...] = ()
    """Of the last rotations that this process has seen, the newest last."""
    last_error: str | None
    looked_at: Moment | None = None
    """When a daemon last read the path; None if it has not, and without a daemon."""


class StatusJson(_Model):
    """All targets, as the stores show them."""

    owner: str
    at: Moment
    targets: tuple[TargetJson, ...]


class DaemonJson(_Model):
    """What a daemon knows besides its targets; `DaemonInfo` describes the fields."""

    version: str
    replica: str | None
    leads: bool
    holder: str | None
    budgets_used: dict[str, float]
    logins_end: dict[str, Moment | None]
    down: dict[str, str]
    clock_trusted: bool
    logins_failing: tuple[str, ...] = ()
    configuration_refused: str | None = None


class EventJson(_Model):
    """A recent event."""

    at: Moment
    level: str
    event: str
    target: str | None
    fields: dict[str, str | int | float | bool]


class DaemonStatusJson(StatusJson):
    """The answer of `/status.json`; the newest event is the first."""

    daemon: DaemonJson
    events: tuple[EventJson, ...]
