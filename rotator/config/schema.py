"""The tables of a configuration file: each option with its type, its default and its description.

The text under an option is its description in the JSON Schema (`json_schema`). What concerns more than one table is
checked in `rules`.
"""

from functools import lru_cache, reduce
from operator import or_
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Strict, create_model

from rotator.config.fields import (
    Cron,
    Duration,
    DurationOrShare,
    EncryptedUrl,
    Extension,
    FieldName,
    File,
    KeyOption,
    LeaseName,
    ListenAddress,
    Moment,
    Namespace,
    OpenTime,
    Owner,
    Owners,
    PartName,
    PartReference,
    Percentage,
    Settings,
    Share,
    ShareOrCount,
    TargetName,
    Text,
    Texts,
    TimeZone,
    VaultPath,
    VaultPaths,
    VaultUrl,
    option,
)
from rotator.config.notify_settings import NotifySettings
from rotator.config.provider_settings import ProviderSettings
from rotator.config.provider_type import ProviderTypes
from rotator.config.values import (
    parse_address,
    parse_duration,
    parse_duration_or_share,
    parse_extension,
    parse_limit,
    parse_percentage,
    parse_share,
)
from rotator.core.versions import MAX_EARLY

# --- stores ----------------------------------------------------------------------------------------------------------


class TokenAuth(Settings):
    """Use the token in $VAULT_TOKEN."""

    method: Literal["token"]


class TokenFileAuth(Settings):
    """Use a token in a file that another program renews, such as a Vault Agent sink."""

    method: Literal["token_file"]
    token_file: File
    """The file that holds the token, relative to the configuration file. rotator reads it again when the token ends."""


class AppRoleAuth(Settings):
    """Log in with an AppRole: a role id, and a secret id in a file."""

    method: Literal["approle"]
    mount: VaultPath = "approle"
    """The mount of the auth method."""
    role_id: Text
    """The id of the role."""
    secret_id_file: File
    """The file that holds the secret id, relative to the configuration file. rotator reads it at each login."""


class KubernetesAuth(Settings):
    """Log in with the pod's service account."""

    method: Literal["kubernetes"]
    mount: VaultPath = "kubernetes"
    """The mount of the auth method."""
    role: Text
    """The role to log in to."""
    token_file: File = Field("/var/run/secrets/kubernetes.io/serviceaccount/token", validate_default=True)
    """The file that holds the service account's token. rotator reads it at each login."""


class JwtAuth(Settings):
    """Log in with a JSON Web Token in a file."""

    method: Literal["jwt"]
    mount: VaultPath = "jwt"
    """The mount of the auth method."""
    role: Text
    """The role to log in to."""
    token_file: File
    """The file that holds the token, relative to the configuration file. rotator reads it at each login."""


class CertAuth(Settings):
    """Log in with a client certificate."""

    method: Literal["cert"]
    mount: VaultPath = "cert"
    """The mount of the auth method."""
    role: Text | None = None
    """The role to log in to; any role that fits if left out."""
    cert_file: File
    """The file that holds the certificate, relative to the configuration file."""
    key_file: File
    """The file that holds its private key, relative to the configuration file."""


Auth = TokenAuth | TokenFileAuth | AppRoleAuth | KubernetesAuth | JwtAuth | CertAuth


def _address_may_come_from_the_environment(schema: dict[str, Any]) -> None:
    schema["required"].remove("address")


class FormerLocation(Settings):
    """Where the store's secrets were before a move. What is left out is unchanged."""

    cluster_id: Text | None = None
    """The id of the Vault cluster: `cluster_id` of sys/health."""
    namespace: Namespace | None = None
    """The namespace (Vault Enterprise); "" is the root."""
    mount: VaultPath | None = None
    """The KV version 2 mount."""


class VaultSettings(Settings):
    """A KV version 2 mount of a Vault. Another namespace or mount is another store."""

    model_config = ConfigDict(json_schema_extra=_address_may_come_from_the_environment)

    type: Literal["vault"]
    """The kind of store."""
    allow_insecure: bool = False  # before the address, whose check needs it
    """Allow http:// to hosts other than loopback; rotator warns at each start."""
    address: VaultUrl
    """The URL of Vault, without /v1; http:// for loopback hosts only. $VAULT_ADDR if left out."""
    namespace: Namespace = ""
    """The namespace (Vault Enterprise). $VAULT_NAMESPACE if left out, else the root."""
    mount: VaultPath = "secret"
    """The KV version 2 mount."""
    auth: Annotated[Auth, Field(discriminator="method")] = TokenAuth(method="token")
    """How to log in."""
    ca_file: File | None = None
    """Certificates to trust, as a PEM file relative to the configuration file. $VAULT_CACERT if left out, else
    certifi's."""
    server_name: Text | None = None
    """The name that the server's certificate must hold. $VAULT_TLS_SERVER_NAME if left out, else the host of the
    address."""
    timeout: Duration = option("10s", parse_duration)
    """How long one request may take. $VAULT_CLIENT_TIMEOUT if left out: seconds, or a Go duration such as 1500ms,
    rounded up to the second."""
    former_locations: Annotated[tuple[FormerLocation, ...], Strict(False)] = ()
    """Where the secrets were before a move, so that keys made there stay ours until they expire. `rotator check
    --online` prints the present location in this form."""


class SqliteSettings(Settings):
    """An SQLite file, for the demo and for tests."""

    type: Literal["sqlite"]
    """The kind of store."""
    file: File
    """The database, relative to the configuration file. rotator creates it if it does not exist."""


StoreSettings = VaultSettings | SqliteSettings
"""Every kind of store."""


# --- the daemon ------------------------------------------------------------------------------------------------------


class HttpSettings(Settings):
    """The daemon's two HTTP listeners."""

    listen: ListenAddress = option("0.0.0.0:9465", parse_address)
    """The address of /metrics, /healthz and /readyz, which show no path and no key id. Port 0 is any free port."""
    admin: ListenAddress = option("127.0.0.1:9466", parse_address)
    """The address of the status page at / and of /status.json, for port-forwards. rotator warns unless it is a
    loopback address."""
    target_metrics: bool = True
    """Whether /metrics has series for each target. With false it has totals only."""


class DaemonSettings(Settings):
    """How the daemon works."""

    workers: int = Field(8, ge=1, le=256)
    """How many targets are worked on at the same time."""
    resync: Duration = option("10m", parse_duration)
    """How often each target's path is read, to notice a change that was made elsewhere."""
    drain: Duration = option("25s", parse_duration)
    """How long work in progress may take to finish when the daemon is stopped."""
    jitter: Percentage = option("5%", parse_percentage)
    """A key is renewed earlier by up to this share of `renew_before`, 0% to 50%. A hash of the target's name fixes
    how much."""
    rollout: Duration = option("1h", parse_duration)
    """Over how long changed key parameters are rolled out. The target's name fixes its moment in that time, so a
    restart delays nothing. `run --once` and `rotate` do not wait."""
    max_clock_skew: Duration = option("60s", parse_duration)
    """How far this machine's clock may differ from the provider's and the store's. Beyond that, rotator ends no key
    by its own clock."""
    max_removed_targets: ShareOrCount = option("50%", parse_limit)
    """A reload that removes more targets than this is refused, when there were at least two: a percentage of the
    targets, or a number. A target with a new name and the same path is not removed."""


class SweepSettings(Settings):
    """The search for orphaned keys, and for served keys that the provider no longer has."""

    interval: Duration = option("15m", parse_duration)
    """How often a sweep runs."""
    min_age: Duration = option("5m", parse_duration)
    """Sweeps ignore keys that are younger: their version may not be written yet, or the provider may not list them
    yet. rotator warns under 30s, the longest time that a publish takes."""
    max_orphans: int = Field(10, ge=0)
    """With more orphaned keys than this, a sweep removes none and reports an error."""


class LeaseSettings(Settings):
    """The Kubernetes Lease by which one of several replicas acts and the others stand by."""

    name: LeaseName = "rotator"
    """The name of the Lease."""
    namespace: LeaseName | None = None
    """The namespace of the Lease. The pod's if left out."""
    identity: Text | None = None
    """The name of this replica. The pod's name if left out. rotator warns when it is set, because replicas that
    share an identity would all lead."""
    duration: Duration = option("15s", parse_duration)
    """How long a replica that stopped renewing keeps the Lease. rotator warns under 10s."""
    api_server: EncryptedUrl | None = None
    """The URL of the Kubernetes API server. The pod's if left out."""
    token_file: File | None = None
    """The file that holds a token for the API server, relative to the configuration file. The service account's if
    left out."""
    ca_file: File | None = None
    """Certificates to trust, as a PEM file relative to the configuration file. The service account's if left out."""


# --- targets ---------------------------------------------------------------------------------------------------------


class WindowSettings(Settings):
    """A time in which scheduled rotations may begin."""

    cron: Cron
    """When the window opens: minute, hour, day of the month, month, day of the week (0 and 7 are Sunday)."""
    duration: OpenTime
    """How long it stays open, at least 10m."""
    timezone: TimeZone = "UTC"
    """The time zone of `cron`."""


class Changeable(Settings):
    """What [defaults] sets for all targets, and what each [targets.NAME] may set for itself."""

    provider: PartReference | None = None
    """The provider that issues the keys. May be left out when there is only one. After a change, keys of the former
    provider work until they expire: rotator does not look for them there."""
    store: PartReference | None = None
    """The store that keeps the keys. May be left out when there is only one."""
    ttl: Duration = option("24h", parse_duration)
    """How long a key lives."""
    renew_before: DurationOrShare = option("8h", parse_duration_or_share)
    """How long before its expiry a key is replaced. Or a share of `ttl`: "33%"."""
    grace_period: DurationOrShare = option("4h", parse_duration_or_share)
    """How long a key works after it was replaced; at most `renew_before`. Or a share of `ttl`. rotator warns under
    2h."""
    windows: Annotated[tuple[WindowSettings, ...], Strict(False)] = ()
    """When scheduled rotations may begin; at any time if left out."""
    pause_until: Moment | None = None
    """Until when scheduled rotations wait; at most a year ahead. A key that would expire before is extended. After
    that time it has no effect."""
    key_field: FieldName = "api_key"
    """The field of the secret that holds the key."""
    extra_fields: dict[Text, str] = Field(default_factory=dict, json_schema_extra={"default": {}})
    """More fields of the secret, for the applications. A target's are added to those of [defaults]. rotator does
    not remove a field that is no longer listed: remove it with `vault kv patch`."""
    key: dict[Text, KeyOption] = Field(default_factory=dict, json_schema_extra={"default": {}})
    """What a key may do, in the provider's own terms. The provider's default applies to what is left out. A target's
    options are added to those of [defaults]."""
    on_cap: Literal["report", "replace"] = "report"
    """What rotator does when a cap in `key` is nearly spent. A new key begins its caps anew, so `replace` weakens the
    guard that a cap is."""
    replace_at: Share = option("80%", parse_share)
    """The share of a cap at which a key counts as nearly spent. A fast rate makes it count earlier."""
    pickup: Duration = option("15m", parse_duration)
    """How long consumers may take to use a new key. A key is not replaced because of a cap within this time."""
    max_early_rotations: int = Field(4, ge=1, le=MAX_EARLY)
    """How many keys may be replaced because of a cap in 24 hours. Later ones are only reported."""
    grace_extension: Extension = option("0s", parse_extension)
    """How much longer than its grace a superseded key may live while it is used. Needs a provider that shows use and
    can change the expiry."""
    idle_after: Duration = option("30m", parse_duration)
    """How long after its last use a superseded key counts as unused, so that its extended grace ends."""


class TargetSettings(Changeable):
    """One path that always holds one live key."""

    path: VaultPath
    """The path in the store, without the mount and without "data/"."""
    adopt: bool = False
    """Take over the path although rotator did not write its newest version."""
    former_paths: VaultPaths = ()
    """Paths that the target had before, in the same store, so that keys made for them stay its own."""


# --- the file --------------------------------------------------------------------------------------------------------


class FileSettings(Settings):
    """Configuration of rotator, which rotates short-lived API keys in HashiCorp Vault."""

    owner: Owner
    """The name of this installation. rotator never touches keys and versions with another owner's name."""
    former_owners: Owners = ()
    """Former values of `owner`, so that rotator recognises keys with those names as its own."""
    include: Texts = ()
    """More files, which hold [targets.NAME] only, as names or patterns relative to this file: "targets.d/*"."""
    providers: dict[PartName, ProviderSettings] = Field(min_length=1)
    """The services that issue keys: at least one [providers.NAME]."""
    stores: dict[PartName, Annotated[StoreSettings, Field(discriminator="type")]] = Field(min_length=1)
    """Where keys are kept: at least one [stores.NAME]. There is no implicit store."""
    http: HttpSettings = Field(default_factory=HttpSettings)
    daemon: DaemonSettings = Field(default_factory=DaemonSettings)
    sweep: SweepSettings = Field(default_factory=SweepSettings)
    lease: LeaseSettings | None = None
    """Leader election between several replicas. The table may be empty; leave it out with one."""
    notify: NotifySettings = Field(default_factory=NotifySettings)
    """How the daemon notifies consumers."""
    defaults: Changeable = Field(default_factory=Changeable)
    """What holds for each target that does not set it itself."""
    targets: dict[TargetName, TargetSettings] = Field({})
    """The paths to keep a live key in."""


@lru_cache
def file_settings(types: ProviderTypes) -> type[FileSettings]:
    """Return the model of the file in which [providers.NAME] has the options of each of these types."""
    tables: Any = reduce(or_, (one.settings for one in types.usable.values()))
    providers = (dict[PartName, Annotated[tables, Field(discriminator="type")]], Field(min_length=1))
    return create_model("FileSettings", __base__=FileSettings, providers=providers)
