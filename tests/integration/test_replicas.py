"""Several replicas and a real kube-apiserver: which one acts, how soon another takes over, and that promises hold."""

import itertools
import json
import secrets
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import pod_rotator
from support.chart import ROOT, Manifests, install_rights, mounted, rendered, volume_of
from support.installation import Daemon, Installation, VaultPaths, installation, on_vault
from support.kube import KubeServer, OwnKubeServer, vault_kubernetes, vault_kubernetes_role
from support.process import wait_until
from support.proxy import Proxy
from support.vault import VaultServer
from support.witness import Witness

from rotator.simulator import Fault

DURATION = 3.0
"""Seconds that the Lease is for."""

TAKEOVER = DURATION * 9 / 8 + 1.0
"""Seconds from a leader's last renewal to the next leader: a standby reads the Lease eight times a duration, and this
machine is slow."""

UNTIL_IT_STOPS = DURATION * 2 / 3 + 0.5
"""Seconds from a leader's last renewal to when it begins nothing more."""

A_STEP = 0.5
"""Seconds for the one request that was under way when a replica lost the Lease."""

LEASE = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
ACTS = ("key_created", "key_published", "key_shortened", "versions_destroyed", "key_deleted")


def of_one_lease(name: str) -> tuple[dict[str, list[str]], ...]:
    """The rules of a Role that suffices, and of no more: what is to be created has no name yet."""
    return ({**LEASE, "resourceNames": [name], "verbs": ["get", "update"]}, {**LEASE, "verbs": ["create"]})


def at(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["timestamp"])


class Replica:
    """One of several daemons of an installation, with a token and a network to the API server of its own."""

    def __init__(self, name: str, rotator: Installation, kube: KubeServer, lease: dict[str, str]) -> None:
        self.name, self.rotator, self.kube, self.lease = name, rotator, kube, lease
        self.network = Proxy(kube.address)
        self.token_file = rotator.folder / f"{lease['name']}-{name}.token"
        self.account = "rotator"
        self.renew_token()
        self._client = httpx.Client(trust_env=False, timeout=5, verify=False)
        self._daemon: Daemon | None = None

    def renew_token(self) -> None:
        self.token_file.write_text(self.kube.token_for(self.lease["namespace"], self.account))

    @property
    def daemon(self) -> Daemon:
        assert self._daemon is not None
        return self._daemon

    def settings(self) -> dict[str, str]:
        """Its [lease]."""
        own = {
            "identity": self.name,
            "api_server": self.network.url.replace("http:", "https:"),
            "token_file": str(self.token_file),
            "ca_file": str(self.kube.ca_file),
            "duration": f"{DURATION:.0f}s",
        }
        return {**own, **self.lease}

    def start(self) -> Daemon:
        """Start it, with a configuration file of its own: the installation's, and a Lease."""
        file = self.token_file.with_suffix(".json")
        file.write_text(json.dumps({**self.rotator.config, "lease": self.settings()}))
        self._daemon = self.rotator.start("--config", str(file))
        self._url = self._daemon.url()
        return self._daemon

    def leads(self) -> bool:
        """Return its metric without recording the whole page: this is called very often."""
        lines = self._client.get(f"{self._url}/metrics").raise_for_status().text.splitlines()
        return "rotator_leader 1.0" in lines

    def ready(self) -> bool:
        return self._client.get(f"{self._url}/readyz").is_success

    def acts(self) -> list[dict[str, Any]]:
        """All that it did to keys, in order."""
        return [event for event in self.daemon.events() if event["event"] in ACTS]

    def close(self) -> None:
        self._client.close()


class Pair:
    """Two replicas that work all the time, and the one Lease between them."""

    def __init__(
        self,
        rotator: Installation,
        kube: KubeServer,
        stack: ExitStack,
        name: str = "rotator",
        *,
        namespace: str = "",
        kind: type[Replica] = Replica,
    ) -> None:
        """With a namespace the rights are there already."""
        self.rotator, self.kube, self._kind = rotator, kube, kind
        self.namespace = namespace or kube.namespace()
        self.lease = {"name": name, "namespace": self.namespace}
        self.replicas = [self.replica(stack, name) for name in ("a", "b")]
        if not namespace:
            kube.bind(self.namespace, kube.role(self.namespace, *of_one_lease(name)), "rotator")

    def replica(self, stack: ExitStack, name: str) -> Replica:
        made = self._kind(name, self.rotator, self.kube, self.lease)
        stack.callback(made.close)
        stack.enter_context(made.network)
        return made

    @property
    def path(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/{self.lease['name']}"

    def start(self) -> None:
        for replica in self.replicas:
            replica.start()

    def roles(self) -> tuple[Replica, Replica]:
        """The leader and the standby, once they are that, and ready."""
        a, b = self.replicas
        wait_until(lambda: a.leads() is not b.leads() and a.ready() and b.ready(), "one of two to lead")
        return (a, b) if a.leads() else (b, a)


def work_often(rotator: Installation) -> None:
    """A new key every second or so: who acts is always to be seen."""
    rotator.config["defaults"] = {"ttl": "60s", "renew_before": "59s", "grace_period": "1s"}
    rotator.config["daemon"] |= {"resync": "3s", "drain": "5s"}


@contextmanager
def paired(folder: Path, kube: KubeServer, targets: tuple[str, ...] = ("x", "y")) -> Iterator[Pair]:
    with installation(folder, targets=targets) as rotator, ExitStack() as stack:
        work_often(rotator)
        yield Pair(rotator, kube, stack)


@pytest.fixture(scope="module")
def running(own_kube: OwnKubeServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two replicas that all tests of this module share: each leaves both of them running, and able to lead."""
    with paired(tmp_path_factory.mktemp("pair"), own_kube) as pair:
        pair.start()
        yield pair


def takes_over(old: Replica, new: Replica, since: datetime, within: float, *, asked: bool = True) -> float:
    """Wait until `new` leads, and has done something; returns the seconds that it took. Never do both lead.

    `asked`: whether `old` can be asked for its metric meanwhile.
    """
    before = len(new.daemon.events("leadership_acquired"))

    def led() -> bool:
        leads = new.leads()
        # In this order: if both are true, `old` led when another did already.
        assert not (leads and asked and old.leads()), "both lead"
        return leads

    wait_until(led, f"{new.name} to lead", within + 5)
    began = at(new.daemon.wait_for("leadership_acquired", before + 1))
    took = (began - since).total_seconds()
    print(f"{new.name} takes over from {old.name} after {took:.2f} s")  # noqa: T201 - shown with -s
    assert took < within
    wait_until(lambda: any(at(event) > began for event in new.acts()), f"{new.name} to act")
    late = [event for event in old.acts() if (at(event) - began).total_seconds() > A_STEP]
    assert not late, f"{old.name} acts although {new.name} leads"
    return took


def now() -> datetime:
    return datetime.now(UTC)


# --- one acts, the other stands by -----------------------------------------------------------------------------------


def test_one_acts_and_the_other_stands_by_and_is_ready(running: Pair) -> None:
    leader, standby = running.roles()
    held = running.kube.request("GET", running.path).raise_for_status().json()["spec"]
    assert held["holderIdentity"] == leader.name
    assert held["leaseDurationSeconds"] == DURATION
    assert leader.daemon.metric("rotator_leader") == 1
    assert standby.daemon.metric("rotator_leader") == 0
    assert 'target="x"' in leader.daemon.get("/metrics").text
    page = standby.daemon.get("/metrics").text
    assert 'target="' not in page
    assert "rotator_earliest_key_expiry_timestamp_seconds" in page, "it knows how the targets stand"
    for replica in (leader, standby):
        assert replica.daemon.get("/readyz").status_code == 200
        shown = replica.daemon.get("/status.json", admin=True).json()["daemon"]
        assert (shown["replica"], shown["holder"]) == (replica.name, leader.name)
    before = len(standby.acts())
    acted = len(leader.acts())
    wait_until(lambda: len(leader.acts()) > acted + 8, "the leader to renew both keys")
    assert len(standby.acts()) == before


def test_a_standby_does_what_a_person_requests(running: Pair) -> None:
    leader, standby = running.roles()
    standby.daemon.signal(signal.SIGUSR1)

    def obeyed(name: str) -> bool:
        lost = standby.daemon.events("publish_conflict", target=name)  # the leader's own turn came in that very moment
        return bool(lost or standby.daemon.events("key_shortened", target=name, by="signal"))

    wait_until(lambda: obeyed("x") and obeyed("y"), "both to be rotated")
    replaced = standby.daemon.events("key_shortened", by="signal")
    assert replaced
    # The one that leads finds the replaced keys, and removes them when their grace is over.
    for shortened in replaced:
        leader.daemon.wait_for("key_deleted", key_id=shortened["key_id"])
    assert not standby.leads()


# --- the leader is gone ----------------------------------------------------------------------------------------------


def test_a_leader_that_is_killed(running: Pair) -> None:
    old, new = running.roles()
    since = now()
    old.daemon.process.kill()
    old.daemon.process.wait()
    takes_over(old, new, since, TAKEOVER, asked=False)
    old.start()
    wait_until(old.ready, "the one that was killed to be back")
    assert not old.leads()


def freeze(replica: Replica) -> None:
    """Freeze a replica while it does not hold the lock of the SQLite file, which would hold up the other one too."""
    while True:
        replica.daemon.signal(signal.SIGSTOP)
        file = replica.rotator.folder / "store.db"
        with closing(sqlite3.connect(file, timeout=1, isolation_level=None)) as database:
            try:
                database.execute("BEGIN IMMEDIATE").execute("ROLLBACK")
            except sqlite3.OperationalError:
                replica.daemon.signal(signal.SIGCONT)
            else:
                return


def test_a_leader_that_is_frozen_does_nothing_more_when_it_goes_on(running: Pair) -> None:
    old, new = running.roles()
    stood_by = len(old.daemon.events("leadership_lost"))
    since = now()
    freeze(old)
    try:
        takes_over(old, new, since, TAKEOVER, asked=False)
    finally:
        old.daemon.signal(signal.SIGCONT)
    thawed = now()
    lost = old.daemon.wait_for("leadership_lost", stood_by + 1)
    assert lost["holder"] in ("", old.name, new.name), "empty if it was not read again yet"
    assert (at(lost) - thawed).total_seconds() < 1.5
    assert not old.leads()
    acted = len(new.acts())
    wait_until(lambda: len(new.acts()) > acted + 8, "the new leader to renew both keys")
    late = [event for event in old.acts() if (at(event) - thawed).total_seconds() > A_STEP]
    assert not late, "the one that was frozen still acts"


def test_a_leader_that_stops_releases_the_lease(running: Pair) -> None:
    old, new = running.roles()
    since = now()
    old.daemon.signal(signal.SIGTERM)
    took = takes_over(old, new, since, 2.0, asked=False)
    assert old.daemon.end() == 0
    assert took < 2
    old.start()
    wait_until(old.ready, "the one that ended to be back")


# --- the leader is cut off -------------------------------------------------------------------------------------------


def hang(leader: Replica) -> None:
    leader.network.mode = "hang"


def refuse(leader: Replica) -> None:
    leader.network.mode = "refuse"


def drip(leader: Replica) -> None:
    leader.network.seconds = 0.1
    leader.network.mode = "drip"


def empty(leader: Replica) -> None:
    leader.token_file.write_text("")


def revoke(leader: Replica) -> None:
    """A token that was good: the API server forgets one that it knows after ten seconds only, so this one is new."""
    leader.account = f"gone-{secrets.token_hex(4)}"
    leader.renew_token()
    namespace = leader.lease["namespace"]
    leader.kube.request("DELETE", f"/api/v1/namespaces/{namespace}/serviceaccounts/{leader.account}").raise_for_status()


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        (hang, "does not answer"),
        (refuse, "does not answer"),
        (drip, "does not answer"),
        (empty, "holds no token"),
        (revoke, "(401)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_leader_that_is_cut_off(running: Pair, cut: Callable[[Replica], None], words: str) -> None:
    old, new = running.roles()
    failed = len(old.daemon.events("lease_failed"))
    stood_by = len(old.daemon.events("leadership_lost"))
    since = now()
    cut(old)
    try:
        takes_over(old, new, since, TAKEOVER)
        failure = old.daemon.wait_for("lease_failed", failed + 1)
        assert words in failure["error"]
        assert f"{running.namespace}/rotator" in failure["error"]
        stopped = old.daemon.wait_for("leadership_lost", stood_by + 1)
        assert (at(stopped) - since).total_seconds() < UNTIL_IT_STOPS + 0.5
        assert old.daemon.get("/readyz").status_code == 200
        assert old.daemon.get("/healthz").status_code == 200
    finally:
        old.network.mode = "pass"
        old.account = "rotator"
        old.renew_token()
    # It can lead again: the other ends, and so will its own turn come.
    wait_until(lambda: sees_the_holder(old, new), "the one that was cut off to see who leads")


def sees_the_holder(replica: Replica, holder: Replica) -> bool:
    shown = httpx.get(f"{replica.daemon.url(admin=True)}/status.json", trust_env=False, verify=False).json()["daemon"]
    return bool(shown["holder"] == holder.name)


# --- the API server, or its Lease, is gone ---------------------------------------------------------------------------


def one_leads_again(pair: Pair, since: datetime, within: float) -> None:
    """Wait until one of the two leads and acts; never do both lead."""
    a, b = pair.replicas

    def led() -> bool:
        leads = a.leads(), b.leads(), a.leads()
        assert leads != (True, True, True), "both lead"
        return any(leads)

    acted = len(a.acts()) + len(b.acts())
    wait_until(led, "one of the two to lead", within + 5)
    took = (now() - since).total_seconds()
    print(f"one of the two leads again after {took:.2f} s")  # noqa: T201 - shown with -s
    assert took < within
    wait_until(lambda: len(a.acts()) + len(b.acts()) > acted, "one of the two to act")


def test_an_api_server_that_is_frozen_for_long(running: Pair, own_kube: OwnKubeServer) -> None:
    old, new = running.roles()
    stood_by = len(old.daemon.events("leadership_lost"))
    since = now()
    own_kube.freeze()
    try:
        stopped = old.daemon.wait_for("leadership_lost", stood_by + 1)
        assert (at(stopped) - since).total_seconds() < UNTIL_IT_STOPS + 0.5
        while (now() - since).total_seconds() < DURATION * 1.2:
            assert not new.leads(), "no replica can lead"
            assert not old.leads()
            time.sleep(0.05)
        for replica in (old, new):
            assert replica.daemon.get("/readyz").status_code == 200
            assert replica.daemon.get("/healthz").status_code == 200
    finally:
        own_kube.thaw()
    one_leads_again(running, now(), TAKEOVER)
    running.roles()


def test_an_api_server_that_is_restarted(running: Pair, own_kube: OwnKubeServer) -> None:
    old, new = running.roles()
    stood_by = len(old.daemon.events("leadership_lost"))
    own_kube.stop()
    old.daemon.wait_for("leadership_lost", stood_by + 1)
    assert not new.leads()
    own_kube.start()
    one_leads_again(running, now(), TAKEOVER)
    running.roles()


def test_a_deleted_lease(running: Pair) -> None:
    running.roles()
    for _ in range(3):
        running.kube.request("DELETE", running.path).raise_for_status()
        # The first reader creates it again; only at this moment may both lead.
        wait_until(lambda: running.kube.request("GET", running.path).is_success, "the Lease to be there again")
        began = time.monotonic()
        running.roles()
        assert time.monotonic() - began < DURATION / 5 + 0.5


# --- rights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verbs", "refused"),
    [([], "GET"), (["get"], "POST"), (["get", "create"], "PUT"), (["get", "update"], "POST")],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_a_missing_right_is_reported(tmp_path: Path, kube: KubeServer, verbs: list[str], refused: str) -> None:
    with paired(tmp_path, kube) as pair:
        stranger = pair.replicas[0]
        stranger.account = "stranger"
        stranger.renew_token()
        if verbs:
            kube.bind(pair.namespace, kube.role(pair.namespace, {**LEASE, "verbs": verbs}), "stranger")
        daemon = stranger.start()
        failure = daemon.wait_for("lease_failed")
        assert f"refuses to {refused} the Lease {pair.namespace}/rotator (403)" in failure["error"]
        assert "get and update on this Lease, and create on leases" in failure["advice"]
        wait_until(stranger.ready, "the standby to be ready")
        kube.bind(pair.namespace, kube.role(pair.namespace, *of_one_lease("rotator")), "stranger")
        daemon.wait_for("key_published", target="y")
        assert stranger.leads()
        assert len(daemon.events("lease_failed")) == 1


@pytest.mark.parametrize("lacks", ["", "get", "update", "create"])
def test_check_online_names_the_right_that_is_missing(tmp_path: Path, kube: KubeServer, lacks: str) -> None:
    with paired(tmp_path, kube, ("x",)) as pair:
        replica = pair.replicas[0]
        replica.account = "stranger"
        replica.renew_token()
        rules = [{**rule, "verbs": [v for v in rule["verbs"] if v != lacks]} for rule in of_one_lease("rotator")]
        kube.bind(pair.namespace, kube.role(pair.namespace, *(r for r in rules if r["verbs"])), "stranger")
        pair.rotator.config["lease"] = replica.settings()
        output = pair.rotator.run("check", "--online", status=1 if lacks else 0).stdout
        name = "leases" if lacks == "create" else "leases/rotator"
        assert (f"lease: lacks the right to {lacks} {name} in the namespace {pair.namespace}" in output) is bool(lacks)
        assert output.count("lease: ") == bool(lacks)
        assert kube.request("GET", pair.path).status_code == 404, "nothing was made"

        replica.token_file.write_text("no-good-token")
        output = pair.rotator.run("check", "--online", status=3).stdout
        assert "lease: the API server refuses to POST a review of our rights (401)" in output


def test_check_online_reports_outside_a_pod_what_run_would(tmp_path: Path) -> None:
    with installation(tmp_path) as rotator:
        rotator.config["lease"] = {"name": "rotator"}
        words = "[lease].api_server is not set, and rotator is not running in a pod"
        assert words in rotator.run("check", "--online", status=3).stdout
        assert words in rotator.run("run", status=3).stderr


def test_a_stop_that_takes_too_long_does_not_release_the_lease(tmp_path: Path, kube: KubeServer) -> None:
    """What is still under way may write yet: the others wait until the Lease has run out."""
    with paired(tmp_path, kube, ("x",)) as pair:
        pair.rotator.config["daemon"]["drain"] = "1s"
        pair.rotator.simulator.faults.add(Fault("slow", "create", seconds=20.0))
        leader = pair.replicas[0]
        daemon = leader.start()
        wait_until(lambda: bool(pair.rotator.calls("create")), "a create under way")
        assert daemon.stop() == 1
        assert daemon.wait_for("stopped")["drained"] is False
        spec = kube.request("GET", pair.path).raise_for_status().json()["spec"]
        assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == (leader.name, DURATION)


def test_in_a_pod_only_the_name_is_required(tmp_path: Path, kube: KubeServer) -> None:
    with paired(tmp_path, kube, ("x",)) as pair:
        mounted_there = tmp_path / "serviceaccount"
        mounted_there.mkdir()
        (mounted_there / "namespace").write_text(pair.namespace)
        (mounted_there / "token").write_text(kube.token_for(pair.namespace, "rotator"))
        (mounted_there / "ca.crt").write_bytes(kube.ca_file.read_bytes())
        pair.rotator.program = [sys.executable, str(Path(pod_rotator.__file__))]
        host, _, port = kube.address.removeprefix("https://").partition(":")
        pair.rotator.environment |= {
            "SERVICE_ACCOUNT": str(mounted_there),
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": port,
            "HOSTNAME": "rotator-5d9f-x7k2p",
        }
        pair.rotator.config["lease"] = {"name": "rotator"}
        daemon = pair.rotator.start()
        assert daemon.wait_for("leadership_acquired")["lease"] == f"{pair.namespace}/rotator"
        daemon.wait_for("key_published")
        spec = kube.request("GET", pair.path).raise_for_status().json()["spec"]
        assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("rotator-5d9f-x7k2p", 15)
        assert daemon.stop() == 0
        assert kube.request("GET", pair.path).json()["spec"]["holderIdentity"] == ""


# --- what rests on none of this --------------------------------------------------------------------------------------


def watched(rotator: Installation, paths: VaultPaths, ttl: float, grace: float, **options: Any) -> Witness:
    served = {name: target["path"] for name, target in rotator.config["targets"].items()}
    return Witness(paths.vault, paths.mount, served, rotator.simulator, ttl=ttl, grace=grace, **options)


def no_complaints(*daemons: Daemon) -> None:
    """None of them met with anything that has no reason."""
    never = {"unexpected_error", "target_foreign", "key_ownership_mismatch", "configuration_refused", "sweep_failed"}
    assert [event for daemon in daemons for event in daemon.events() if event["event"] in never] == []


def test_two_that_both_believe_they_lead_break_no_promise(
    vault: VaultServer, own_kube: OwnKubeServer, tmp_path: Path
) -> None:
    """Each has a Lease of its own: both renew, sweep and tidy the same targets, and one is frozen in between."""
    with on_vault(tmp_path, vault, ("v", "w", "x", "y", "z")) as (rotator, paths), ExitStack() as stack:
        rotator.config["defaults"] = {"ttl": "60s", "renew_before": "58s", "grace_period": "2s"}
        rotator.config["daemon"] |= {"resync": "1s", "drain": "5s"}
        rotator.config["sweep"] = {"interval": "2s", "min_age": "1s", "max_orphans": 1000}
        pairs = [Pair(rotator, own_kube, stack, name) for name in ("one", "another")]
        both = [pair.replicas[number] for number, pair in enumerate(pairs)]
        with watched(rotator, paths, ttl=60, grace=2) as witness:
            for replica in both:
                replica.start()
            witness.wait_until_served()
            for first, second in (both, both[::-1]):
                wait_until(lambda: all(replica.leads() for replica in both), "both to lead")
                done = [len(replica.acts()) for replica in both]

                def both_act() -> bool:
                    for replica in both:  # else the one whose clock ticks first does all the work
                        replica.daemon.signal(signal.SIGUSR1)
                    time.sleep(0.1)
                    return all(len(r.acts()) > count + 10 for r, count in zip(both, done, strict=True))  # noqa: B023

                wait_until(both_act, "both to act")
                first.daemon.signal(signal.SIGSTOP)
                done = [len(second.acts())]
                try:
                    wait_until(lambda: len(second.acts()) > done[0] + 25, "the other to go on")  # noqa: B023
                finally:
                    first.daemon.signal(signal.SIGCONT)
            for replica in both:
                assert replica.daemon.stop() == 0
        assert witness.broken == []
        assert witness.counts["refused"] == 0
        assert len(witness.paths["v"].versions) > 4
        no_complaints(*(replica.daemon for replica in both))


# --- upgrades --------------------------------------------------------------------------------------------------------


def rotation_gaps(witness: Witness) -> list[float]:
    """Seconds between each two versions of a path that hold another key."""
    gaps = []
    for path in witness.paths.values():
        made = [version.created_at for _, version in sorted(path.versions.items())]
        gaps += [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(made)]
    return gaps


def test_a_rolling_upgrade_misses_no_rotation(vault: VaultServer, own_kube: OwnKubeServer, tmp_path: Path) -> None:
    """As a Deployment does it: a new replica is started, and once it is ready an old one is ended; the leader first."""
    with on_vault(tmp_path, vault, ("v", "w", "x", "y")) as (rotator, paths), ExitStack() as stack:
        work_often(rotator)
        pair = Pair(rotator, own_kube, stack)
        with watched(rotator, paths, ttl=60, grace=1, in_flight=0.5) as witness:
            pair.start()
            old = list(pair.roles())
            ended = [replica.daemon for replica in old]
            witness.wait_until_served()
            for number, leaving in enumerate(old):
                fresh = pair.replica(stack, f"new-{number}")
                fresh.start()
                wait_until(fresh.ready, "the new replica to be ready")
                since = now()
                leads = leaving.leads()
                leaving.daemon.signal(signal.SIGTERM)
                staying = [*old[number + 1 :], *(r for r in pair.replicas if r not in old), fresh]
                if leads:
                    wait_until(lambda: any(r.leads() for r in staying), "another to lead")  # noqa: B023
                    print(f"another leads after {(now() - since).total_seconds():.2f} s")  # noqa: T201 - shown with -s
                    assert (now() - since).total_seconds() < 2
                assert leaving.daemon.end() == 0
                pair.replicas.append(fresh)
            pair.replicas = pair.replicas[2:]
            versions = sum(len(path.versions) for path in witness.paths.values())
            wait_until(lambda: sum(len(p.versions) for p in witness.paths.values()) > versions + 8, "two more rounds")
        assert witness.broken == []
        assert witness.counts["refused"] == 0
        assert max(rotation_gaps(witness)) < 2 + 10, "due every second or two; a takeover is in a second or two"
        assert sum(len(daemon.events("key_not_removed")) for daemon in ended) == 0
        no_complaints(*ended, *(replica.daemon for replica in pair.replicas))


# --- all of it together ----------------------------------------------------------------------------------------------

POLICY = ROOT / "deploy/vault/policy.hcl"

PUNCTUAL = timedelta(seconds=8)
"""How late a key may be replaced: it is looked for every second, and this machine may be busy (4.0 s were seen)."""

RENEW_AFTER = timedelta(seconds=1)
"""How long after its birth a key is due, in `work_often`."""


class Pod(Replica):
    """A replica that has what the chart gives a pod; only addresses and places are this machine's."""

    def mount(self, manifests: Manifests, own: Mapping[str, Any]) -> None:
        """Put the configuration before it, or another one, as the kubelet does; `own` is what is changed, by table."""
        config = json.loads(manifests["ConfigMap/rotator-config"]["data"]["rotator.json"])
        for place, value in own.items():
            *tables, key = place.split(".")
            table = config
            for name in tables:
                table = table[name]
            table[key] = value
        config["lease"] |= {**self.settings(), **config["lease"]}
        changed = {"data": {"rotator.json": json.dumps(config)}}
        folder = self.rotator.folder / f"etc-{self.name}"
        folder.mkdir(exist_ok=True)
        self._main = mounted({**manifests, "ConfigMap/rotator-config": changed}, folder)

    def start(self) -> Daemon:
        self._daemon = self.rotator.start("--config", str(self._main))
        self._url = self._daemon.url()
        return self._daemon


def lateness(witness: Witness, gaps: Sequence[tuple[datetime, datetime]]) -> list[timedelta]:
    """Return how late each key was replaced. A key due in a gap without a leader counts from the gap's end."""
    found = []
    for path in witness.paths.values():
        for earlier, later in itertools.pairwise(version for _, version in sorted(path.versions.items())):
            due = earlier.created_at + RENEW_AFTER
            # A key that is published at the last moment before a gap is looked at again after it.
            due = max([due, *(end for begin, end in gaps if begin - A_TICK <= due <= end)])
            found.append(later.created_at - due)
    return found


A_TICK = timedelta(seconds=1)


def test_two_replicas_of_the_chart_rotate_on_schedule_whatever_the_cluster_does(
    vault: VaultServer, own_kube: OwnKubeServer, tmp_path: Path
) -> None:
    """The chart's ServiceAccount, Role, ConfigMaps and the least rights, with a login that lasts for seconds."""
    namespace, kv, mount = own_kube.namespace(), vault.new_mount(), vault_kubernetes(vault, own_kube)
    policy = POLICY.read_text().replace('"secret/', f'"{kv}/')
    lasts = {"audience": "vault", "token_ttl": "3s", "token_max_ttl": "6s"}
    role = vault_kubernetes_role(vault, mount, namespace, "rotator", policy, **lasts)
    values: dict[str, Any] = {
        "image": {"repository": "registry.test/rotator"},
        "owner": "prod-eu",
        "lease": {"duration": f"{DURATION:.0f}s"},
        "vault": {"address": vault.address, "mount": kv, "auth": {"mount": mount, "role": role}},
        "targets": {name: {"path": f"apps/{name}"} for name in ("w", "x", "y")},
    }
    with installation(tmp_path) as rotator, ExitStack() as stack:
        work_often(rotator)
        values["config"] = {name: rotator.config[name] for name in ("defaults", "daemon")}
        values["provider"] = {"requestsPerMinute": 100_000}

        def manifests() -> list[str]:
            file = tmp_path / "values.json"
            file.write_text(json.dumps(values))
            return rendered(namespace, file)

        install_rights(own_kube, namespace, manifests())
        (tmp_path / "api-key").write_text(rotator.simulator.organisation_key)
        (tmp_path / "vault.token").write_text(own_kube.token_for(namespace, "rotator", "vault"))
        own = {
            "http": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
            "providers.respan.base_url": rotator.simulator.url,
            "providers.respan.api_key.file": str(tmp_path / "api-key"),
            "stores.vault.auth.token_file": str(tmp_path / "vault.token"),
        }
        pair = Pair(rotator, own_kube, stack, namespace=namespace, kind=Pod)

        def mount_all() -> None:
            volume = volume_of(own_kube, namespace, manifests())
            for pod in pair.replicas:
                assert isinstance(pod, Pod)
                pod.mount(volume, own)

        mount_all()
        served = {name: f"apps/{name}" for name in values["targets"]}
        with Witness(vault, kv, served, rotator.simulator, ttl=60, grace=1, in_flight=0.5) as witness:
            pair.start()

            def rounds(count: int, what: str) -> None:
                """Wait until each path got so many new keys."""
                before = {name: len(path.versions) for name, path in witness.paths.items()}
                wait_until(
                    lambda: all(len(path.versions) >= before[name] + count for name, path in witness.paths.items()),
                    f"{count} new keys for all, {what}",
                )

            rounds(2, "after the start")
            old, new = pair.roles()
            gaps = []
            since = now()
            old.daemon.process.kill()
            old.daemon.process.wait()
            killed = old.daemon
            took = takes_over(old, new, since, TAKEOVER, asked=False)
            gaps.append((since, since + timedelta(seconds=took)))
            old.start()
            rounds(1, "after the leader was killed")

            values["targets"]["z"] = {"path": "apps/z"}
            mount_all()  # as the kubelets do some time after `helm upgrade`
            for replica in pair.replicas:
                loaded = replica.daemon.wait_for("configuration_loaded")
                assert (loaded["targets"], loaded["added"], loaded["changed"], loaded["removed"]) == (4, 1, 0, 0)
            wait_until(lambda: bool(new.daemon.events("key_published", target="z")), "the added target's key")
            login = 'rotator_store_requests_total{operation="login",outcome="200",store="vault"}'
            wait_until(lambda: all((r.daemon.metric(login) or 0) > 1 for r in pair.replicas), "logins that have ended")

            # What follows takes no login, which would need the API server.
            vault.request("POST", f"auth/{mount}/role/{role}", {"token_ttl": "1h", "token_max_ttl": "1h"})
            vault.request("PUT", f"sys/leases/revoke-prefix/auth/{mount}/login").raise_for_status()
            rounds(1, "after all logins were revoked")
            expiry = 'rotator_store_token_expiry_timestamp_seconds{store="vault"}'
            wait_until(
                lambda: all((replica.daemon.metric(expiry) or 0) > time.time() + 600 for replica in pair.replicas),
                "logins that last",
            )
            since = now()
            own_kube.stop()
            own_kube.start()
            one_leads_again(pair, now(), TAKEOVER)
            led = [at(event) for replica in pair.replicas for event in replica.daemon.events("leadership_acquired")]
            gaps.append((since, max([since, *led])))
            rounds(1, "after the API server was restarted")

            pair.roles()
        assert witness.broken == []
        assert witness.counts["refused"] == 0
        late = lateness(witness, gaps)
        assert len(late) > 15
        assert max(late) < PUNCTUAL, (late, gaps)
        no_complaints(killed, *(replica.daemon for replica in pair.replicas))
