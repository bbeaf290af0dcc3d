"""From the options of `type = "http"` to requests and readings, or to the mistakes in the options. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rotator.config.values import quoted
from rotator.core.traits import Traits
from rotator.providers.http_provider import templates
from rotator.providers.http_provider.key_options import is_usable_name
from rotator.providers.http_provider.pointers import Places, Pointer
from rotator.providers.http_provider.tables import (
    AnswerSettings,
    CreateSettings,
    CursorPaging,
    DeleteSettings,
    FieldValue,
    GoneAnswer,
    KeyOptionSettings,
    ListSettings,
    OffsetPaging,
    OperationSettings,
    PagePaging,
    Paging,
    RetrieveSettings,
)
from rotator.providers.http_provider.templates import PARAMETER, Body, Place, Template, Values
from rotator.providers.request import BEARER, CredentialHeader, Request, with_query

if TYPE_CHECKING:
    from rotator.providers.http_provider.settings import HttpProviderSettings

EXPIRY = frozenset({"expires_at", "expires_unix", "ttl_seconds", "ttl"})
"""The variables that hold when a key expires."""

_OWN = EXPIRY | {"name", "id", "page", "offset", "cursor", "api_key"}
_WHOLE = Places((Pointer("", ()),))
_HEADER = re.compile(r"([A-Za-z0-9-]{1,64}): *([!-~]|[!-~][ -~]*[!-~])")
_HEADERS_OF_HTTP = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "content-type", "host", "te", "transfer-encoding"}
)
_NUMBERS, _TEXTS = ("integer", "number"), ("text", "texts")


@dataclass(frozen=True, slots=True)
class Operation:
    """How an operation is requested, and how its answer is read."""

    method: str
    path: Template
    query: Mapping[str, Body]
    body: Body | None
    entry: Places
    id: Places | None
    gone: tuple[GoneAnswer, ...]

    def request(self, values: Values) -> Request:
        """Return the request with these values of the variables."""
        query = {name: templates.rendered(inner, values) for name, inner in self.query.items()}
        sent = {name: value for name, value in query.items() if value is not None}
        body = None if self.body is None else templates.rendered(self.body, values) or {}
        return Request(self.method, with_query(self.path.path(values), sent), body)

    @property
    def names(self) -> frozenset[str]:
        """The variables that it uses."""
        several = [self.path, *self.query.values(), *([] if self.body is None else [self.body])]
        return frozenset(name for body in several for name in templates.names_in(body))


@dataclass(frozen=True, slots=True)
class Description:
    """What the options mean."""

    traits: Traits
    header: CredentialHeader
    create: Operation
    list: Operation
    retrieve: Operation | None
    expire: Operation | None
    delete: Operation
    paging: Paging
    entries: Places
    ids_only: bool
    answer: AnswerSettings
    gone: tuple[FieldValue, ...]
    variables: Values


@dataclass(frozen=True, slots=True)
class Reading:
    """A description, or what is wrong with the options."""

    description: Description | None
    mistakes: tuple[tuple[Place, str], ...]


def read(settings: "HttpProviderSettings") -> Reading:
    """Return what the options mean, or every mistake in them."""
    return _Reader(settings).read()


class _Reader:
    def __init__(self, settings: "HttpProviderSettings") -> None:
        self._settings = settings
        self._mistakes: list[tuple[Place, str]] = []

    def read(self) -> Reading:
        settings = self._settings
        header = self._header()
        create, listing = self._operation("create", settings.create), self._operation("list", settings.list)
        retrieve, expire = self._operation("retrieve", settings.retrieve), self._operation("expire", settings.expire)
        delete = self._operation("delete", settings.delete)
        used = frozenset[str]().union(*(made.names for made in (create, listing, retrieve, expire, delete) if made))
        self._variables(used)
        self._key_options(used)
        if settings.list is not None:
            self._list(settings.list)
        for option in ("label", "create", "list", "delete", "answer"):
            if getattr(settings, option) is None:
                self._report((option,), "is required without a preset")
        if create is not None and settings.answer is not None:
            self._expiry(create, settings.answer, expire if settings.can_set_expiry else None)
        if settings.answer is not None:
            self._use(settings.answer)
        if self._mistakes:
            return Reading(None, tuple(self._mistakes))
        assert create and listing and delete  # noqa: S101, PT018 - for the type checker: a missing one is a mistake
        assert settings.list and settings.answer and settings.label  # noqa: S101, PT018 - the same
        return Reading(
            Description(
                traits=Traits(
                    label=settings.label,
                    can_set_expiry=expire is not None and settings.can_set_expiry,
                    keys_expire=not EXPIRY.isdisjoint(create.names),
                    reports_use="list" if settings.answer.use or settings.answer.last_used_at else "no",
                    key_pattern=settings.key_pattern,
                    keys_per_page=1 if settings.list.ids_only else settings.list.keys_per_page,
                ),
                header=header,
                create=create,
                list=listing,
                retrieve=retrieve,
                expire=expire if settings.can_set_expiry else None,
                delete=delete,
                paging=settings.list.paging,
                entries=settings.list.entries,
                ids_only=settings.list.ids_only,
                answer=settings.answer,
                gone=settings.gone,
                variables=settings.variables,
            ),
            (),
        )

    def _report(self, place: Place, sentence: str) -> None:
        self._mistakes.append((place, sentence))

    def _header(self) -> CredentialHeader:
        match = _HEADER.fullmatch(self._settings.header)
        if match is None:
            self._report(("header",), 'must be written "Name: value"')
        elif match[1].lower() in _HEADERS_OF_HTTP:
            self._report(("header",), f"must not be {match[1]}, which HTTP needs itself")
        elif match[2].count("{api_key}") != 1 or set("{}") & set(match[2].replace("{api_key}", "")):
            self._report(("header",), "must have {api_key} once in its value, and no other brace")
        else:
            return CredentialHeader(match[1], match[2])
        return BEARER

    # --- operations --------------------------------------------------------------------------------------------------

    def _operation(self, name: str, settings: OperationSettings | None) -> Operation | None:
        if settings is None:
            return None
        known = self._known(name) | self._settings.variables.keys()
        made = Operation(
            settings.method,
            templates.parse(settings.path, known, (name, "path"), self._report),
            {
                option: templates.parse_body(value, known, (name, "query", option), self._report)
                for option, value in settings.query.items()
            },
            None if settings.body is None else templates.parse_body(settings.body, known, (name, "body"), self._report),
            settings.entry if isinstance(settings, CreateSettings | RetrieveSettings) else _WHOLE,
            settings.id if isinstance(settings, RetrieveSettings) else None,
            settings.gone if isinstance(settings, RetrieveSettings | DeleteSettings) else (),
        )
        if settings.body is not None and settings.method == "GET":
            self._report((name, "body"), "must be left out: a GET has no body")
        self._sends_what_it_must(name, made)
        if optional := sorted(_optional(made.path.names)):
            self._report((name, "path"), f"must not have {{{optional[0]}}}, which may have no value")
        return made

    def _known(self, name: str) -> frozenset[str]:
        match name:
            case "create":
                return EXPIRY | {"name"} | {f"{PARAMETER}{option}" for option in self._settings.key}
            case "list":
                return frozenset(_of_paging(self._settings.list.paging) if self._settings.list else ())
            case "expire":
                return EXPIRY | {"id"}
        return frozenset({"id"})

    def _sends_what_it_must(self, name: str, made: Operation) -> None:
        if name == "create" and "name" not in made.names:
            self._report((name,), "must send {name}: rotator recognises its keys by their names")
        if name in ("retrieve", "expire", "delete") and "id" not in made.names:
            self._report((name,), "must send {id}, the key that it is about")
        if name == "expire" and EXPIRY.isdisjoint(made.names):
            several = quoted([f"{{{variable}}}" for variable in sorted(EXPIRY)])
            self._report((name,), f"must send when the key expires: {several}")
        if name == "list" and self._settings.list:
            for variable in sorted(_of_paging(self._settings.list.paging) - made.names):
                self._report((name, "paging"), f"must be used: no query and no body of the list has {{{variable}}}")

    def _list(self, settings: ListSettings) -> None:
        if settings.ids_only and self._settings.retrieve is None:
            self._report(("list", "ids_only"), "needs the table retrieve, by which each id is looked up")

    def _expiry(self, create: Operation, answer: AnswerSettings, expire: Operation | None) -> None:
        is_shown = answer.expires_at is not None or answer.expires_in is not None
        is_sent = not EXPIRY.isdisjoint(create.names)
        if is_sent and not is_shown:
            self._report(("answer", "expires_at"), "is required, since create sends when the key expires")
        if is_shown and not is_sent:
            option = "expires_at" if answer.expires_at is not None else "expires_in"
            several = quoted([f"{{{variable}}}" for variable in sorted(EXPIRY)])
            self._report(
                ("answer", option), f"is of no use, since create does not send when the key expires: {several}"
            )
        elif expire is not None and not is_sent:
            self._report(("expire",), "is of no use, since create does not send when the key expires")

    def _use(self, answer: AnswerSettings) -> None:
        for name, shown in answer.use.items():
            place, option = ("answer", "use", name), self._settings.key.get(name)
            if option is None:
                self._report(place, f"is no option of a target's key: describe it in key.{name}")
            elif not option.is_cap:
                self._report(place, f"is the use of no cap: set key.{name}.is_cap = true")
            if shown.used is None and shown.left is None:
                self._report(place, "must have used or left")
            if shown.left is not None and shown.limit is None:
                self._report((*place, "limit"), "is required with left: the difference is used")

    # --- variables and options ---------------------------------------------------------------------------------------

    def _variables(self, used: frozenset[str]) -> None:
        for name in self._settings.variables:
            if name in _OWN:
                self._report(("variables", name), "is the name of a variable that rotator sets")
            elif name not in used:
                self._report(("variables", name), f"is used nowhere: no template has {{{name}}}")

    def _key_options(self, used: frozenset[str]) -> None:
        for name, option in self._settings.key.items():
            if not is_usable_name(name):
                self._report(("key", name), "cannot be the name of an option: rotator uses it itself")
            for key, sentence in _flaws(option):
                self._report(("key", name, key) if key else ("key", name), sentence)
            if self._settings.create is not None and f"{PARAMETER}{name}" not in used:
                self._report(("key", name), f"is used nowhere: create must send {{{PARAMETER}{name}}}")


def _of_paging(paging: Paging) -> frozenset[str]:
    match paging:
        case PagePaging():
            return frozenset({"page"})
        case OffsetPaging():
            return frozenset({"offset"})
        case CursorPaging():
            return frozenset({"cursor"})
    return frozenset()


def _optional(names: Iterable[str]) -> Iterable[str]:
    return (name for name in names if name == "cursor" or name.startswith(PARAMETER))


def _flaws(option: KeyOptionSettings) -> Iterable[tuple[str, str]]:
    for key in ("minimum", "maximum"):
        if getattr(option, key) is not None and option.type not in _NUMBERS:
            yield key, f"is for the types {quoted(_NUMBERS)}"
    if option.is_cap and option.type not in _NUMBERS:
        yield "is_cap", f"is for the types {quoted(_NUMBERS)}"
    if option.unit is not None and not option.is_cap:
        yield "unit", "is of no use without is_cap = true"
    if option.choices and option.type not in _TEXTS:
        yield "choices", f"is for the types {quoted(_TEXTS)}"
    if option.minimum is not None and option.maximum is not None and option.minimum > option.maximum:
        yield "maximum", "must be at least the minimum"
