"""The shape of a configuration file, as pydantic models: which keys there are, of what type, with which default.

What concerns one value or one table is checked here, what needs more than one table in `config`. The text under a key
is its description in the JSON Schema. Relative file names start from the folder in the validation's context,
`{"folder": Path}`, or from the working directory.
"""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    Strict,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from rotator.config import values as notation
from rotator.config.values import Address, Limit, VaultReference
from rotator.core.versions import RECORD_FIELD

# --- values ----------------------------------------------------------------------------------------------------------


def _in_folder(value: object, info: ValidationInfo) -> Path:
    folder: Path = info.context["folder"] if info.context else Path()
    return folder / notation.parse_text(value)


def _encrypted(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" and not notation.is_loopback(parts.hostname or ""):
        raise ValueError("must begin with https://: http:// is for loopback hosts only")
    return url


def _encrypted_if_asked(url: str, info: ValidationInfo) -> str:
    return url if info.data.get("allow_insecure") else _encrypted(url)


def _text(**more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **more})


# Whoever writes a configuration hears from the schema what `notation` would say: no segment is empty, "." or "..".
_SEGMENT = "([^/.][^/]*|[.][^/.][^/]*|[.][.][^/]+)"

Text = Annotated[str, AfterValidator(notation.parse_text), _text(minLength=1)]
Texts = Annotated[tuple[Text, ...], Strict(False)]  # TOML's lists are Python's, not tuples
File = Annotated[Path, PlainValidator(_in_folder), _text(minLength=1)]
Duration = Annotated[
    timedelta,
    PlainValidator(notation.parse_duration),
    _text(pattern=f"^{notation.DURATION_PATTERN}$", examples=["90s", "15m", "1h30m"]),
]
Percentage = Annotated[
    float, PlainValidator(notation.parse_percentage), _text(pattern=f"^{notation.PERCENTAGE_PATTERN}$")
]
ShareOrCount = Annotated[
    Limit,
    PlainValidator(notation.parse_limit),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": f"^{notation.LIMIT_PATTERN}$"}, {"type": "integer", "minimum": 0}]}
    ),
]
ListenAddress = Annotated[Address, PlainValidator(notation.parse_address), _text(examples=["127.0.0.1:9465"])]
Url = Annotated[str, PlainValidator(notation.parse_url), _text(pattern="^https?://")]
EncryptedUrl = Annotated[Url, AfterValidator(_encrypted)]
UsuallyEncryptedUrl = Annotated[Url, AfterValidator(_encrypted_if_asked)]  # below `allow_insecure`
VaultPath = Annotated[str, PlainValidator(notation.parse_path), _text(pattern=f"^{_SEGMENT}(/{_SEGMENT})*$")]
FieldName = Annotated[Text, _text(minLength=1, **{"not": {"const": RECORD_FIELD}})]  # refused in `config_checks`
Namespace = Annotated[str, PlainValidator(notation.parse_namespace), _text()]
Reference = Annotated[VaultReference, PlainValidator(notation.parse_reference), _text(pattern="^[^/]+/.+#[^#]+$")]

Owner = Annotated[str, Field(pattern="^[a-z0-9-]{1,63}$")]
TargetName = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]{0,62}$")]
PartName = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
LeaseName = Annotated[str, Field(pattern="^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class Settings(BaseModel):
    """What every table has in common: no unknown key, no change, no guessing of types, no value in an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


# --- providers -------------------------------------------------------------------------------------------------------


def _not_the_secret_itself(value: object) -> object:
    if isinstance(value, str):
        raise ValueError(  # noqa: TRY004 - pydantic turns only a ValueError into a problem
            'must not stand in the configuration itself: say where it is, as { file = "…" } or { env = "…" }'
        )
    return value


class SecretSource(Settings):
    """Where a secret is read from: exactly one of the three."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    file: File | None = None
    """A file that holds it, relative to the configuration file; white space around it is ignored."""
    env: Text | None = None
    """An environment variable that holds it."""
    vault: Reference | None = None
    """A field of a KV version 2 secret, "mount/path#field", read with the login of the only Vault store."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError('must have exactly one of file = "…", env = "…" and vault = "mount/path#field"')
        return self


def _known_status(value: int) -> int:
    if not 200 <= value <= 599:
        raise ValueError("must be an HTTP status, 200 to 599")
    return value


class ProbeSettings(Settings):
    """One request that each new key makes itself before it is published, to see that it works."""

    url: EncryptedUrl
    """Where to; the key is sent there, as `Authorization: Bearer`."""
    method: Literal["GET", "HEAD", "POST"] = "GET"
    """How; a POST has the body {}. What costs money or usage costs it at each rotation."""
    accept: Annotated[tuple[Annotated[int, AfterValidator(_known_status)], ...], Strict(False), Field(min_length=1)] = (
        200,
    )
    """The statuses that a key which works is answered with."""


class RespanSettings(Settings):
    """An organisation at Respan."""

    type: Literal["respan"]
    """Which kind of provider this is."""
    allow_insecure: bool = False
    """Allow http:// to other hosts than loopback; warns at each start."""
    base_url: UsuallyEncryptedUrl = Field("https://api.respan.ai", validate_default=True)
    """Where its API is."""
    api_key: Annotated[SecretSource, BeforeValidator(_not_the_secret_itself)]
    """The organisation key."""
    requests_per_minute: int = Field(60, ge=1, le=100_000)
    """How many requests the vendor allows this organisation."""
    probe: ProbeSettings | None = None
    """Off if left out."""


# --- stores ----------------------------------------------------------------------------------------------------------


class TokenAuth(Settings):
    """The token in $VAULT_TOKEN."""

    method: Literal["token"]


class TokenFileAuth(Settings):
    """A token in a file that somebody else renews, as Vault Agent's sink."""

    method: Literal["token_file"]
    token_file: File
    """The file, relative to the configuration file; read again when the token ends."""


class AppRoleAuth(Settings):
    """An AppRole: a role id, and a secret id in a file."""

    method: Literal["approle"]
    mount: VaultPath = "approle"
    """Where the method is mounted."""
    role_id: Text
    """The role's id."""
    secret_id_file: File
    """The file that holds the secret id, relative to the configuration file; read again at every login."""


class KubernetesAuth(Settings):
    """The pod's service account."""

    method: Literal["kubernetes"]
    mount: VaultPath = "kubernetes"
    """Where the method is mounted."""
    role: Text
    """The role to log in to."""
    token_file: File = Field("/var/run/secrets/kubernetes.io/serviceaccount/token", validate_default=True)
    """The service account's token; read again at every login."""


class JwtAuth(Settings):
    """A JSON Web Token in a file."""

    method: Literal["jwt"]
    mount: VaultPath = "jwt"
    """Where the method is mounted."""
    role: Text
    """The role to log in to."""
    token_file: File
    """The file that holds the token, relative to the configuration file; read again at every login."""


class CertAuth(Settings):
    """A client certificate."""

    method: Literal["cert"]
    mount: VaultPath = "cert"
    """Where the method is mounted."""
    role: Text | None = None
    """The role to log in to; any that fits if left out."""
    cert_file: File
    """The certificate, relative to the configuration file."""
    key_file: File
    """Its private key, relative to the configuration file."""


Auth = TokenAuth | TokenFileAuth | AppRoleAuth | KubernetesAuth | JwtAuth | CertAuth


def _without_version(url: str) -> str:
    if url.endswith("/v1"):
        raise ValueError('must not end with "/v1": that is added to each request, so write what comes before it')
    return url


def _address_may_come_from_the_environment(schema: dict[str, Any]) -> None:
    schema["required"].remove("address")


class FormerLocation(Settings):
    """Where the store's secrets were before a move; what is left out is as it is now."""

    cluster_id: Text | None = None
    """The id of the Vault cluster: `cluster_id` of sys/health."""
    namespace: Namespace | None = None
    """The namespace (Enterprise); "" is the root."""
    mount: VaultPath | None = None
    """The KV version 2 mount."""


class VaultSettings(Settings):
    """A KV version 2 mount of a Vault; another namespace or mount is another store."""

    model_config = ConfigDict(json_schema_extra=_address_may_come_from_the_environment)

    type: Literal["vault"]
    """Which kind of store this is."""
    allow_insecure: bool = False
    """Allow http:// to other hosts than loopback; warns at each start."""
    address: Annotated[UsuallyEncryptedUrl, AfterValidator(_without_version)]
    """Where Vault listens; $VAULT_ADDR if left out."""
    namespace: Namespace = ""
    """The namespace (Enterprise); $VAULT_NAMESPACE if left out."""
    mount: VaultPath = "secret"
    """The KV version 2 mount."""
    auth: Annotated[Auth, Field(discriminator="method")] = TokenAuth(method="token")
    """How to log in."""
    ca_file: File | None = None
    """Certificates to trust, relative to the configuration file; $VAULT_CACERT if left out, else certifi's."""
    server_name: Text | None = None
    """The name that the server's certificate must hold; $VAULT_TLS_SERVER_NAME if left out, else the address's."""
    timeout: Duration = Field("10s", validate_default=True)
    """How long one request may take; $VAULT_CLIENT_TIMEOUT if left out."""
    former_locations: Annotated[tuple[FormerLocation, ...], Strict(False)] = ()
    """Where these secrets were before a move: keys that were made there stay ours. `check --online` prints the present
    location in this form."""


class SqliteSettings(Settings):
    """A file, for the demo and for tests."""

    type: Literal["sqlite"]
    """Which kind of store this is."""
    file: File
    """The database, relative to the configuration file; made when it is not there."""


# --- the daemon ------------------------------------------------------------------------------------------------------


class HttpSettings(Settings):
    """The two listeners of the daemon."""

    listen: ListenAddress = Field("0.0.0.0:9465", validate_default=True)
    """/metrics, /healthz and /readyz: nothing that tells a path or a key id."""
    admin: ListenAddress = Field("127.0.0.1:9466", validate_default=True)
    """The status page at / and /status.json: for loopback and port-forwards."""
    target_metrics: bool = True
    """Whether /metrics has series for each target, and not the sums alone; read at the start."""


class DaemonSettings(Settings):
    """How the daemon works."""

    workers: int = Field(8, ge=1, le=256)
    """How many targets are worked on at a time."""
    resync: Duration = Field("10m", validate_default=True)
    """How soon a change that was made elsewhere is noticed."""
    drain: Duration = Field("25s", validate_default=True)
    """How long work under way may take to end when the daemon is stopped."""
    jitter: Percentage = Field("5%", validate_default=True)
    """How much of renew_before a target may be renewed earlier, by a hash of its name; never later."""
    rollout: Duration = Field("1h", validate_default=True)
    """Over how long changed parameters are rolled out, whatever restarts come between."""
    max_clock_skew: Duration = Field("60s", validate_default=True)
    """How far this machine's clock may be off Respan's and Vault's; beyond that no key is ended by it."""
    max_removed_targets: ShareOrCount = Field("50%", validate_default=True)
    """A reload that removes more of the targets, of at least two, is refused; a percentage or a number."""


class SweepSettings(Settings):
    """The search for keys that nobody knows of, and for served keys that are gone."""

    interval: Duration = Field("15m", validate_default=True)
    """How often."""
    min_age: Duration = Field("5m", validate_default=True)
    """A younger key that no version holds may still be on its way there."""
    max_orphans: int = Field(10, ge=0)
    """If there are more orphans than this, none is touched: a person decides."""


class LeaseSettings(Settings):
    """A Kubernetes Lease: of several replicas one acts, the others stand by."""

    name: LeaseName = "rotator"
    """The Lease's name."""
    namespace: LeaseName | None = None
    """Its namespace; the pod's if left out."""
    identity: Text | None = None
    """What this replica is called; the pod's name if left out."""
    duration: Duration = Field("15s", validate_default=True)
    """How long a replica that stopped answering keeps the Lease."""
    api_server: EncryptedUrl | None = None
    """The API server; the pod's if left out."""
    token_file: File | None = None
    """A token for it, relative to the configuration file; the service account's if left out."""
    ca_file: File | None = None
    """Certificates to trust, relative to the configuration file; the service account's if left out."""


# --- targets ---------------------------------------------------------------------------------------------------------


def _unlimited_or_some(value: int) -> int:
    if value != -1 and value < 1:
        raise ValueError("must be -1 (unlimited) or at least 1")
    return value


class KeySettings(Settings):
    """What a key may do. What is left out is not sent, and so the vendor's default."""

    rate_limit: int | None = Field(None, ge=1)
    """Calls a minute; the vendor's plan overrides it."""
    spending_limit: float | None = Field(None, gt=0)
    """USD."""
    max_usage: Annotated[int, AfterValidator(_unlimited_or_some)] | None = None
    """Calls in all; -1 is unlimited. Usage is not watched: a key that is used up is not replaced."""
    is_test: bool | None = None
    """Whether it is a test key."""


class Changeable(Settings):
    """What may be said of all targets in [defaults], and of each one in [targets.*]."""

    provider: Text | None = None
    """Who issues the keys; may be left out when there is only one provider."""
    store: Text | None = None
    """Where they are kept; may be left out when there is only one store."""
    ttl: Duration = Field("24h", validate_default=True)
    """How long a key lives."""
    renew_before: Duration = Field("8h", validate_default=True)
    """How long before its expiry a key is replaced."""
    grace_period: Duration = Field("4h", validate_default=True)
    """How long a key works after it was replaced."""
    key_field: FieldName = "api_key"
    """The field of the version that holds the key."""
    extra_fields: dict[Text, str] = {}
    """More fields of the version, for the applications; a target's are added to the defaults'."""
    key: KeySettings = Field(default_factory=KeySettings)
    """What a key may do; a target's are added to the defaults'."""


class TargetSettings(Changeable):
    """One path that always holds one live key."""

    path: VaultPath
    """The path in the store, without its mount and without KV version 2's "data/"."""
    adopt: bool = False
    """Take the path over although its newest version is somebody else's."""
    former_paths: Annotated[tuple[VaultPath, ...], Strict(False)] = ()
    """Paths in the same store that this target had before: keys that were made for them stay its own."""


# --- the file --------------------------------------------------------------------------------------------------------


class FileSettings(Settings):
    """Configuration of rotator, which rotates Respan temporary API keys into HashiCorp Vault."""

    model_config = ConfigDict(json_schema_extra={"required": ["owner", "providers", "stores"]})

    owner: Owner
    """The name of this installation: keys that carry another owner's name are never touched."""
    former_owners: Annotated[tuple[Owner, ...], Strict(False)] = ()
    """What `owner` was before, so that its keys are still known."""
    include: Texts = ()
    """Further files with [targets.*], as patterns relative to this file: "targets.d/*"."""
    providers: dict[PartName, RespanSettings] = Field({}, json_schema_extra={"minProperties": 1})
    """Who issues keys."""
    stores: dict[PartName, Annotated[VaultSettings | SqliteSettings, Field(discriminator="type")]] = Field(
        {}, json_schema_extra={"minProperties": 1}
    )
    """Where keys are kept."""
    http: HttpSettings = Field(default_factory=HttpSettings)
    daemon: DaemonSettings = Field(default_factory=DaemonSettings)
    sweep: SweepSettings = Field(default_factory=SweepSettings)
    lease: LeaseSettings | None = None
    """Present when there are several replicas."""
    defaults: Changeable = Field(default_factory=Changeable)
    """What holds for every target that does not say otherwise."""
    targets: dict[TargetName, TargetSettings] = {}
    """The paths to keep a live key in."""


class _WithoutNull(GenerateJsonSchema):
    """What may be left out is not null either: TOML has no null, and `config_files` refuses JSON's."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        inner = super().default_schema(schema)
        return {key: value for key, value in inner.items() if key != "default" or value is not None}

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002 - a title would only repeat the key
        return False


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the main file, as checked in at `config.schema.json`."""
    schema = FileSettings.model_json_schema(schema_generator=_WithoutNull)
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "title": "rotator"}
