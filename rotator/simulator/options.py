"""Every ambiguity of the vendor's temporary-keys API, as a switch.

The vendor's reference (the pages create, list, retrieve, update and delete under "Temporary API Keys"), its older
reference and its SDK disagree, and rotator must work with each. This module has the choices and no behaviour.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True, slots=True)
class Options:
    """How this simulated vendor behaves. The defaults follow the reference; the comments show the alternatives."""

    list_shape: Literal["page", "array"] = "page"  # list: a page object; another page of the reference has an array
    page_size: int = 100  # keys on one page of a page object; an array always holds them all
    created_field: Literal["created_at", "created"] = "created_at"  # the reference; "created" is the SDK's
    create_status: int = 201  # create: the success status is not documented; it may be 200
    delete_status: int = 204  # delete: any 2xx; other than 204 it has a body
    auth_status: int = 401  # for a refused organisation key: 401 in the reference, 403 in the SDK
    invalid_status: int = 400  # for an invalid body: 400 or 422, both with "errors" by field
    deleted: Literal["revoked", "plain", "404"] = (
        "revoked"  # a deleted key is shown as revoked, is shown like others, or is unknown
    )
    id_shape: Literal["uuid", "tk", "tmpkey", "prefix"] = "uuid"  # "prefix" ids hold $ + / and =
    name_max: int = 50  # characters; the limit of the Django library whose id shape the older reference shows
    use_shown: Literal["create", "none", "retrieve", "list", "everywhere"] = (
        "create"  # which answers show key_usage, and all but create's last_used and spending_in_period too
    )
    never_used: Literal["null", "1970"] = "null"  # last_used of a key that was never used
    use_lag_s: float = 0.0  # the use that answers show is this old; the gateway's own counters are not
    use_period_s: float = 0.0  # a key's counters start again after each such time since its creation; 0: never
    spent_status: int = 429  # for a key whose max_usage is used up: 429 in the SDK, 401 in an older backend
    limit_policies: Literal["off", "refused", "on"] = (
        "off"  # GET /api/limit-policies/: unknown (404), not allowed (403), or the caps of all keys
    )
    older_fields: bool = False  # show revoked, last_used, spending_in_period and is_temporary, as the older reference
    plan_rate_limit: int | None = None  # calls a minute that the plan imposes, whatever rate_limit was requested
    limits_permission: bool = False  # update: whether the organisation key may change limits; the reference has 403
    expiry_shift_s: float = 0.0  # the granted expiry is this much later than requested (earlier if negative)
    expiry_round_s: float = 0.0  # and is rounded down to a multiple of this; 0: not rounded
    expired_listed: bool = True  # list promises unrevoked keys; expired ones are not documented
    slash: Literal["404", "301"] = "404"  # the answer to a path without its last slash
    requests_per_minute: int | None = 60  # for the whole organisation; None is no limit
    retry_after: Literal["body", "header", "both", "none"] = "body"  # where a 429 has the time to wait
    strangers_list: Literal["refused", "empty"] = "refused"  # list without a valid key: some vendors answer 2xx
    call_cost_usd: float = 0.01  # the cost of a gateway call against spending_limit


def with_switches(options: Options, switches: Iterable[str]) -> Options:
    """Return the options with these changes, each NAME=VALUE. Raises ValueError, worded for a person."""
    kinds = get_type_hints(Options)
    changes: dict[str, Any] = {}
    for switch in switches:
        name, equals, text = switch.partition("=")
        if name not in kinds or not equals:
            raise ValueError(f"{switch!r} is not a switch: write NAME=VALUE, with one of {', '.join(kinds)}")
        try:
            changes[name] = _value(kinds[name], text)
        except ValueError:
            raise ValueError(f"{name} must be {_in_words(kinds[name])}, not {text!r}") from None
    if changes.get("page_size", 1) < 1:
        raise ValueError("page_size must be at least 1")
    return replace(options, **changes)


def described() -> list[str]:
    """Return every switch with its values, the default first."""
    kinds = get_type_hints(Options)
    return [
        f"{field.name}={_shown(field.default)}|{_others(kinds[field.name], field.default)}" for field in fields(Options)
    ]


def _value(kind: Any, text: str) -> Any:
    if get_origin(kind) is Literal:
        return get_args(kind)[get_args(kind).index(text)]
    if kind is bool:
        return {"true": True, "false": False}[text.lower()] if text.lower() in ("true", "false") else int("")
    if NoneType in get_args(kind):
        return None if text.lower() == "none" else int(text)
    return kind(text)


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _others(kind: Any, default: object) -> str:
    words = _in_words(kind).split("|")
    return "|".join(word for word in words if word != _shown(default))


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if NoneType in get_args(kind):
        return "NUMBER|none"
    return {bool: "true|false", int: "NUMBER", float: "NUMBER"}[kind]
