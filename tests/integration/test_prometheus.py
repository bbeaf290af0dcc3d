"""A real Prometheus scrapes a running daemon while things break and heal: alerts fire and clear, the dashboard shows.

The rules are those that are shipped, but that they wait two seconds where they would wait minutes.
"""

import math
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
from support.canned import Asked, Reply, canned
from support.installation import LEAST_RIGHTS, Daemon, Installation, VaultPaths, installation, on_vault
from support.kube import OwnKubeServer
from support.leaks import RECORDER
from support.process import free_ports, wait_until
from support.prometheus import (
    NO_PROMETHEUS,
    RULES,
    Prometheus,
    dashboard_panels,
    impatient,
    is_installed,
    prometheus,
    promtool,
)
from support.proxy import Proxy
from support.vault import VaultServer

from rotator.simulator import Fault
from rotator.simulator.vendor import Refusal

FOR = 2
# But for the one that fires until Prometheus has scraped for the first time, which may take it five seconds.
EVER_FIRED = 'count by (alertname) (count_over_time(ALERTS{alertstate="firing", alertname!="RotatorGone"}[10m]))'

pytestmark = pytest.mark.skipif(not is_installed(), reason=NO_PROMETHEUS)


def sooner(rules: str, times: Mapping[str, str]) -> str:
    """The same rules, with these in place of those: each is there."""
    for long, short in times.items():
        assert long in rules, long
        rules = rules.replace(long, short)
    return rules


class Watched:
    """An installation of two targets with short lives, on a Vault behind a proxy, that Prometheus scrapes."""

    def __init__(self, rotator: Installation, paths: VaultPaths, link: Proxy) -> None:
        self.rotator, self.paths, self.link = rotator, paths, link
        self.ports = free_ports(2)
        lives = {"ttl": "10s", "renew_before": "8s", "grace_period": "1s"}
        rotator.config["defaults"] = {**lives, "key": {"max_usage": 10**6}}
        rotator.config["sweep"] = {"interval": "1s", "min_age": "2s"}
        rotator.config["daemon"]["resync"] = "2s"
        rotator.config["stores"]["store"]["address"] = link.url

    def start(self, number: int = 0) -> Daemon:
        """One of two daemons; neither knows of the other."""
        self.rotator.config["http"]["listen"] = f"127.0.0.1:{self.ports[number]}"
        daemon = self.rotator.start()
        daemon.wait_for("sweep_completed")
        return daemon

    def set_policy(self, hcl: str) -> None:
        """From now on the daemon's AppRole has these rights."""
        vault, role = self.paths.vault, "auth/approle/role"
        role_id = self.rotator.config["stores"]["store"]["auth"]["role_id"]
        for name in vault.request("LIST", role).json()["data"]["keys"]:
            if vault.request("GET", f"{role}/{name}/role-id").json()["data"]["role_id"] == role_id:
                policy = {"policy": hcl.format(mount=self.paths.mount)}
                vault.request("PUT", f"sys/policies/acl/{name}", policy).raise_for_status()

    def lose_a_key(self, target: str) -> None:
        """Create a key that no version holds, as a crash leaves one."""
        vendor = self.rotator.simulator.vendor
        served = vendor.key_of((self.paths.read(f"apps/{target}") or {})["api_key"])
        assert served is not None
        name = ".".join([*served.name.split(".")[:3], "1", "lonelyaa"])
        vendor.create({"name": name, "expiry_date": (datetime.now(UTC) + timedelta(days=1)).isoformat()})

    def log_in_for(self, token_ttl: str) -> None:
        """From the next start on with an AppRole whose tokens last so long, and are renewed for as long."""
        role_id, secret_id = self.paths.vault.approle(LEAST_RIGHTS.format(mount=self.paths.mount), token_ttl=token_ttl)
        RECORDER.add_secret("an AppRole's secret id", secret_id)
        (self.rotator.folder / "secret-id").write_text(secret_id)
        auth = {"method": "approle", "role_id": role_id, "secret_id_file": "secret-id"}
        self.rotator.config["stores"]["store"]["auth"] = auth


@pytest.fixture
def watched(vault: VaultServer, tmp_path: Path) -> Iterator[Watched]:
    with on_vault(tmp_path, vault, ("a", "b"), use_shown="list") as (rotator, paths), Proxy(vault.address) as link:
        made = Watched(rotator, paths, link)
        made.log_in_for("60s")
        yield made


@pytest.fixture
def seen(watched: Watched) -> Iterator[Prometheus]:
    hosts = [f"127.0.0.1:{port}" for port in watched.ports]
    with prometheus({"rotator": hosts}, impatient(RULES.read_text(), FOR)) as server:
        yield server


def rotates_and_nothing_fires(seen: Prometheus) -> None:
    rotated = 'sum(increase(rotator_rotations_total{reason="expiring", outcome="success"}[5m])) > 2'
    wait_until(lambda: bool(seen.query(rotated)), "rotations that Prometheus has seen")
    assert seen.query(EVER_FIRED) == []


def everything_breaks_and_heals(watched: Watched, daemon: Daemon, seen: Prometheus) -> None:
    rotator = watched.rotator
    rotator.simulator.stop()
    rotator.write('{"owner": 7}')
    daemon.signal(signal.SIGHUP)
    watched.paths.put("apps/b", {"api_key": "another team's"})
    seen.wait_for(
        "RotatorConfigurationNotReloaded",
        "RotatorForeignPath",
        "RotatorProviderDown",
        "RotatorRotationFailing",
        "RotatorTargetsFailing",
        "RotatorKeyNearExpiry",
        "RotatorTargetWithoutKey",
        seconds=60,
    )
    near = seen.firing()["RotatorKeyNearExpiry"]
    assert [alert["labels"]["target"] for alert in near] == ["a"], "b is no longer ours"
    assert near[0]["annotations"]["summary"].startswith("The key of a expires in ")

    watched.link.mode = "refuse"
    seen.wait_for("RotatorStoreDown")
    watched.link.mode = "pass"
    rotator.simulator.start()
    rotator.run("rotate", "b", "--adopt", status=0)
    daemon.signal(signal.SIGHUP)
    daemon.signal(signal.SIGUSR1)  # a person does not wait for the next try
    wait_until(lambda: seen.firing() == {}, f"all to clear, and not {set(seen.firing())}")


def two_act_and_both_are_refused(watched: Watched, seen: Prometheus) -> Daemon:
    simulator = watched.rotator.simulator
    second = watched.start(1)
    watched.lose_a_key("a")
    seen.wait_for("RotatorTwoLeaders", "RotatorOrphansFound")
    simulator.faults.add(Fault("refuse", status=401, times=None))
    seen.wait_for("RotatorCredentialRefused")
    simulator.faults.clear()
    seen.wait_for_end("RotatorCredentialRefused")
    return second


def test_the_alerts_fire_and_clear_and_the_dashboard_shows_it(watched: Watched, seen: Prometheus) -> None:
    seen.wait_for("RotatorGone")
    daemon = watched.start()
    rotates_and_nothing_fires(seen)
    everything_breaks_and_heals(watched, daemon, seen)
    second = two_act_and_both_are_refused(watched, seen)
    the_dashboard_has_data(watched, seen)

    page = daemon.get("/metrics").text
    checked = promtool("check", "metrics", stdin=page)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")

    assert second.stop() == 0
    seen.wait_for_end("RotatorTwoLeaders")
    assert daemon.stop() == 0
    seen.wait_for("RotatorGone")
    [gone] = seen.firing()["RotatorGone"]
    assert gone["annotations"]["summary"] == "No replica of rotator answers Prometheus"


def test_undone_work_and_unreadable_paths_raise_alerts(watched: Watched, tmp_path: Path) -> None:
    """Without series of targets, so that the sums alone have to do; minutes and hours are seconds here."""
    rotator, simulator = watched.rotator, watched.rotator.simulator
    rotator.config["sweep"]["max_orphans"] = 1
    rotator.config["http"]["target_metrics"] = False
    in_seconds = {"> 1800 +": "> 1 +", "> 900": "> 2", "[30m]": "[5s]", "[1h]": "[5s]", "offset 1h": "offset 5s"}
    rules = sooner(impatient(RULES.read_text(), FOR), {**in_seconds, 'outcome="429"}[10m]': 'outcome="429"}[5s]'})
    hosts = [f"127.0.0.1:{port}" for port in watched.ports]
    with prometheus({"rotator": hosts}, rules) as seen:
        watched.start()
        rotates = 'sum(increase(rotator_rotations_total{reason="expiring", outcome="success"}[5m])) > 2'
        wait_until(lambda: bool(seen.query(rotates)), "rotations that Prometheus has seen")

        for _ in range(3):
            watched.lose_a_key("a")
        seen.wait_for("RotatorOrphansHeld", "RotatorNoSweep")
        rotator.run("sweep", "--max-orphans", "10", status=0)
        seen.wait_for_end("RotatorNoSweep", "RotatorOrphansHeld")

        watched.set_policy(LEAST_RIGHTS.replace("{mount}/destroy", "{mount}/nothing"))
        seen.wait_for("RotatorSupersededPastGrace")
        watched.set_policy(LEAST_RIGHTS)
        seen.wait_for_end("RotatorSupersededPastGrace", seconds=60)

        simulator.faults.add(Fault("rate_limit", retry_after=1, times=None))
        seen.wait_for("RotatorRateLimited")
        simulator.faults.clear()
        seen.wait_for_end("RotatorRateLimited")

        simulator.stop()
        seen.wait_for("RotatorNothingRotated", seconds=60)
        assert seen.query('rotator_targets{state="due"} > 0') == [], "what is due is failing in an outage"
        shown = survival(seen)
        assert shown["Overdue by"] > 1
        assert shown["Least margin left"] < 1
        assert shown["First key expires in"] < 60
        simulator.start()
        seen.wait_for_end("RotatorNothingRotated", seconds=60)

        secret_id = tmp_path / "secret-id"
        rotator.config["stores"]["store"]["auth"]["secret_id_file"] = "not-there-yet"
        rotator.config["providers"]["respan"]["api_key"] = {"file": "nor-this"}
        rotator.config["http"]["listen"] = hosts[1]
        rotator.start()
        seen.wait_for("RotatorLoginFailing")
        [login] = seen.firing()["RotatorLoginFailing"]
        assert login["labels"]["instance"] == hosts[1]
        (tmp_path / "not-there-yet").write_text(secret_id.read_text())
        seen.wait_for("RotatorCredentialRefused")
        (tmp_path / "nor-this").write_text(simulator.organisation_key)
        seen.wait_for_end("RotatorLoginFailing", "RotatorCredentialRefused", seconds=60)


class Late:
    """Forwards requests to a Vault; its clock may be behind, and it may be too busy to renew a login."""

    def __init__(self, client: httpx.Client) -> None:
        """`client` is for that Vault."""
        self._client = client
        self.behind = timedelta(0)
        self.renews = True

    def __call__(self, asked: Asked) -> Reply:
        date = {"Date": format_datetime(datetime.now(UTC) - self.behind, usegmt=True)}
        if not self.renews and asked.path.endswith(("/login", "/renew-self")):
            return Reply(500, {"errors": ["too busy"]}, date)
        headers = {name: value for name, value in asked.headers.items() if name.startswith(("x-vault", "content-type"))}
        answer = self._client.request(asked.method, asked.path, headers=headers, content=asked.body)
        return Reply(answer.status_code, answer.json() if answer.content else "", date)


def test_slow_failures_raise_alerts_in_time(watched: Watched, vault: VaultServer) -> None:
    """A budget that is too small, a login that is not renewed, a clock that goes wrong; all at once, to wait once."""
    rotator, respan = watched.rotator, watched.rotator.config["providers"]["respan"]
    rotator.config["http"]["target_metrics"] = False
    watched.log_in_for("12s")
    slowly = ("RotatorBudgetNearlyUsed", "RotatorEarliestKeyNearExpiry", "RotatorLoginEnding", "RotatorClockSkew")
    rules = sooner(impatient(RULES.read_text(), FOR), {"used_ratio[15m]": "used_ratio[3s]", "[6h:5m]": "[30s:1s]"})
    hosts = [f"127.0.0.1:{port}" for port in watched.ports]
    with (
        prometheus({"rotator": hosts}, rules) as seen,
        httpx.Client(base_url=vault.address, trust_env=False) as client,
        canned(late := Late(client)) as behind,
    ):
        rotator.config["stores"]["store"]["address"] = behind.address
        daemon = watched.start()
        renewed = 'increase(rotator_store_requests_total{operation="renew", outcome="200"}[1m]) > 0'
        wait_until(lambda: bool(seen.query(renewed)), "a login that is renewed")
        assert not {labels["alertname"] for labels, _ in seen.query(EVER_FIRED)} & {*slowly}

        late.behind, late.renews = timedelta(seconds=40), False
        ample, respan["requests_per_minute"] = respan["requests_per_minute"], 6
        rotator.write()
        daemon.signal(signal.SIGHUP)
        seen.wait_for(*slowly)
        assert seen.query('rotator_key_expiry_timestamp_seconds{target="a"}') == []

        late.behind, late.renews = timedelta(0), True
        respan["requests_per_minute"] = ample
        rotator.write()
        daemon.signal(signal.SIGHUP)
        seen.wait_for_end(*slowly)
        assert daemon.stop() == 0


def in_seconds(rules: str) -> str:
    """Return the same rules, a second for each minute of those about the store."""
    rules = re.sub(r"(?m)^( +for: \d+)m$", r"\1s", rules)
    return sooner(rules, {"[4m]": "[4s]", "[10m]": "[10s]", "offset 10m": "offset 10s", "[6h:5m]": "[360s:5s]"})


def test_an_outage_of_vault_is_one_alert_and_none_for_logins(watched: Watched) -> None:
    """The token expires in the outage, and its renewal is due."""
    watched.log_in_for("12s")
    hosts = [f"127.0.0.1:{port}" for port in watched.ports]
    logins = "sum(rotator_store_requests_total{{operation=~'login|renew', outcome{}}}) or vector(0)"
    of_store = 'count by (alertname) (ALERTS{alertstate="firing", alertname=~"Rotator(StoreDown|Login.*)"})'
    with prometheus({"rotator": hosts}, in_seconds(RULES.read_text())) as seen:
        daemon = watched.start()
        wait_until(lambda: seen.query(logins.format("=~'2..'"))[0][1] > 2, "a login that is renewed")
        watched.link.mode = "refuse"
        seen.wait_for("RotatorStoreDown", seconds=60)
        wait_until(lambda: seen.query("min(rotator_store_token_expiry_timestamp_seconds) < time()") != [], "its end")
        assert seen.query(logins.format("!~'2..'"))[0][1] > 0
        time.sleep(6)  # for longer than RotatorLoginFailing and RotatorLoginEnding wait
        assert [labels["alertname"] for labels, _ in seen.query(of_store)] == ["RotatorStoreDown"]

        watched.link.mode = "pass"
        seen.wait_for_end("RotatorStoreDown", seconds=60)
        wait_until(
            lambda: seen.query("min(rotator_store_token_expiry_timestamp_seconds) > time()") != [], "a new login"
        )
        time.sleep(6)
        ever = 'count by (alertname) (count_over_time(ALERTS{alertstate="firing", alertname=~"RotatorLogin.*"}[10m]))'
        assert seen.query(ever) == []
        assert daemon.stop() == 0


def the_dashboard_has_data(watched: Watched, seen: Prometheus) -> None:
    """Each panel has data at some time: what a key has used is shown from the sweep after its first call on."""
    assert seen.label_values("job", 'rotator_build_info{cluster=~".*", namespace=~".*"}') == ["rotator"]
    empty = dashboard_queries()

    def all_have_had_data() -> bool:
        for key in watched.rotator.simulator.vendor.keys.values():
            with suppress(Refusal):  # it is not the served one
                watched.rotator.simulator.vendor.use(key.text)
        empty[:] = [asked for asked in empty if all(math.isnan(value) for _, value in seen.query(asked[1]))]
        return not empty

    wait_until(all_have_had_data, f"data for {empty}")


def dashboard_queries() -> list[tuple[str, str]]:
    """All of them, each with its panel's title."""
    values = {"$job": "rotator", "$cluster": ".*", "$namespace": ".*", "$__rate_interval": "1m"}

    def as_asked(expression: str) -> str:
        for variable, value in values.items():
            expression = expression.replace(variable, value)
        return expression

    return [
        (panel["title"], as_asked(target["expr"]))
        for panel in dashboard_panels()
        for target in panel.get("targets", [])
    ]


def survival(seen: Prometheus) -> dict[str, float]:
    """Return what the first row of the dashboard shows of the served keys, without unknown values."""
    stats = ("First key expires in", "Least margin left", "Overdue by")
    return {title: value for title, asked in dashboard_queries() if title in stats for _, value in seen.query(asked)}


def test_a_change_of_leader_raises_no_alert_and_no_leader_does(own_kube: OwnKubeServer, tmp_path: Path) -> None:
    namespace = own_kube.namespace()
    token = own_kube.token_for(namespace, "rotator")
    rights = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}
    own_kube.bind(namespace, own_kube.role(namespace, rights), "rotator")
    (tmp_path / "token").write_text(token)
    ports = free_ports(2)
    with installation(tmp_path) as rotator:
        rotator.config["sweep"] = {"interval": "1s"}
        rotator.config["lease"] = {
            "duration": "2s",
            "namespace": namespace,
            "api_server": own_kube.address,
            "token_file": "token",
            "ca_file": str(own_kube.ca_file),
        }
        replicas = []
        for identity, port in zip(("one", "two"), ports, strict=True):
            rotator.config["lease"]["identity"] = identity
            rotator.config["http"]["listen"] = f"127.0.0.1:{port}"
            replicas.append(rotator.start())
            replicas[0].wait_for("key_published")
        one, two = (f"127.0.0.1:{port}" for port in ports)
        with prometheus({"rotator": [one, two]}, impatient(RULES.read_text(), 5)) as seen:

            def shows(leader: str) -> bool:
                led = seen.query("rotator_leader == 1")
                expiries = seen.query('rotator_key_expiry_timestamp_seconds{target="a"}')
                return [[labels["instance"] for labels, _ in found] for found in (led, expiries)] == [
                    [leader],
                    [leader],
                ]

            wait_until(lambda: shows(one), "the first to lead")
            earliest = "count(rotator_earliest_key_expiry_timestamp_seconds) == 2"
            wait_until(lambda: bool(seen.query(earliest)), "the standby to know of the keys, too")
            replicas[0].process.kill()
            wait_until(lambda: shows(two), "the second to lead")
            assert seen.query(EVER_FIRED) == []

            own_kube.freeze()
            try:
                seen.wait_for("RotatorNoLeader")
                assert seen.query('rotator_key_expiry_timestamp_seconds{target="a"}') == []
                assert survival(seen).keys() == {"First key expires in", "Least margin left", "Overdue by"}
            finally:
                own_kube.thaw()
            seen.wait_for_end("RotatorNoLeader")
            assert [labels["alertname"] for labels, _ in seen.query(EVER_FIRED)] == ["RotatorNoLeader"]
