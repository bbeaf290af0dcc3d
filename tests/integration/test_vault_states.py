"""Every state that a Vault may be found in: brought about on a real one; the outcome, and the messages.

Each test states the fate of every key, in the order in which they were created: so none
that is served or in grace was ended, and none was created in vain. And of all messages, it checks what a person is
to know.
"""

import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import support.vault as vaults
from support.canned import Asked, Reply, canned
from support.installation import LEAST_RIGHTS, Daemon, Installation, Result, VaultPaths, on_vault
from support.leaks import RECORDER
from support.process import wait_until
from support.vault import RaftVault, VaultServer

from rotator.simulator import Fault
from rotator.simulator.vendor import Key

Lines = list[dict[str, Any]]


class Scene:
    """Some targets whose keys live for an hour and have a grace of ten minutes, and a Vault to do things to by hand."""

    def __init__(self, rotator: Installation, paths: VaultPaths) -> None:
        self.rotator, self.paths = rotator, paths
        self.vendor = rotator.simulator.vendor
        self.name = f"{paths.mount}/{{}}/apps/a"  # of the path, in Vault's own words
        rotator.config["defaults"]["grace_period"] = "10m"
        rotator.config["daemon"] |= {"resync": "1s"}
        rotator.config["sweep"] = {"min_age": "1s"}

    # --- what is ---

    def served(self, path: str = "apps/a") -> str | None:
        """The id of the key that applications read."""
        key = self.vendor.key_of((self.paths.read(path) or {}).get("api_key", ""))
        return key.id if key else None

    def fates(self, target: str = "a") -> list[str]:
        """What has become of every key that was ever created for this target."""
        served = self.served(f"apps/{target}")
        return [self._fate(key, served) for key in self.vendor.keys.values() if key.name.split(".")[1] == target]

    def _fate(self, key: Key, served: str | None) -> str:
        assert key.expiry_date is not None
        left = key.expiry_date - self.vendor.now()
        if key.revoked_at or left <= timedelta(0):
            state = "ended"
        elif timedelta(minutes=9) < left <= timedelta(minutes=11):
            state = "in grace"  # up to a minute longer, if the key's times look as if the provider kept whole minutes
        else:
            state = "live" if left > timedelta(minutes=50) else f"ends in {left}"
        return state if key.id != served else "served" if state == "live" else f"served, {state}"

    def key_id(self, number: int, target: str = "a") -> str:
        """The id of the target's first key, or second, …"""
        keys = [key for key in self.vendor.keys.values() if key.name.split(".")[1] == target]
        return keys[number - 1].id

    # --- what is done ---

    def sweep(self) -> None:
        """Sweep until no key but the served one lives on; a sweep does not judge what is younger than a second."""

        def is_swept() -> bool:
            if "live" in self.fates():
                self.rotator.run("sweep", status=0)
            return "live" not in self.fates()

        wait_until(is_swept, "every orphan to be shortened")

    def rotated(self, daemon: Daemon, count: int) -> None:
        """Have the daemon rotate, and wait until this many rotations are over."""
        daemon.wait_for("sweep_completed")
        daemon.signal(signal.SIGUSR1)
        daemon.wait_for("key_shortened", count, target="a", reason="superseded")

    def kv(self, method: str, kind: str, body: object = None, path: str = "apps/a") -> Any:
        """A request to the mount, as root."""
        answer = self.paths.vault.request(method, f"{self.paths.mount}/{kind}/{path}", body).raise_for_status()
        return answer.json() if answer.content else None

    def kv_rollback(self, number: int) -> None:
        """What `vault kv rollback -version=…` does."""
        data = self.kv("GET", "data", path=f"apps/a?version={number}")["data"]["data"]
        current = self.paths.metadata("apps/a")["current_version"]
        self.kv("POST", "data", {"data": data, "options": {"cas": current}})

    def kv_patch(self, path: str, **fields: str) -> None:
        """What `vault kv patch` does."""
        httpx.patch(
            f"{self.paths.vault.address}/v1/{self.paths.mount}/data/{path}",
            content=json.dumps({"data": fields}),
            headers={"X-Vault-Token": self.paths.vault.root_token, "Content-Type": "application/merge-patch+json"},
            trust_env=False,
        ).raise_for_status()

    def use_approle(self) -> str:
        """Log in with an AppRole from now on; the name of its policy."""
        role_id, secret_id = self.paths.vault.approle(LEAST_RIGHTS.format(mount=self.paths.mount))
        RECORDER.add_secret("an AppRole's secret id", secret_id)
        (self.rotator.folder / "secret-id").write_text(secret_id)
        auth = {"method": "approle", "role_id": role_id, "secret_id_file": "secret-id"}
        self.rotator.config["stores"]["store"]["auth"] = auth
        del self.rotator.environment["VAULT_TOKEN"]
        [policy] = [name for name in self.approles() if self.role_id(name) == role_id]
        return policy

    def approles(self) -> list[str]:
        """The roles; each is called as its policy is."""
        return list(self.paths.vault.request("LIST", "auth/approle/role").raise_for_status().json()["data"]["keys"])

    def role_id(self, name: str) -> str:
        answer = self.paths.vault.request("GET", f"auth/approle/role/{name}/role-id").raise_for_status()
        return str(answer.json()["data"]["role_id"])

    @property
    def policy(self) -> str:
        """The policy of the token in use."""
        asked = {"token": self.rotator.environment["VAULT_TOKEN"]}
        found = (
            self.paths.vault.request("POST", "auth/token/lookup", asked).raise_for_status().json()["data"]["policies"]
        )
        return str(found[0])

    def set_policy(self, name: str, hcl: str) -> None:
        """Change what this policy allows."""
        wanted = {"policy": hcl.format(mount=self.paths.mount)}
        self.paths.vault.request("PUT", f"sys/policies/acl/{name}", wanted).raise_for_status()


@contextmanager
def scene(folder: Path, vault: VaultServer, targets: tuple[str, ...] = ("a",)) -> Iterator[Scene]:
    with on_vault(folder, vault, targets) as made:
        yield Scene(*made)


@pytest.fixture
def here(vault: VaultServer, tmp_path: Path) -> Iterator[Scene]:
    """On the Vault that all tests share: nothing is done to it as a whole."""
    with scene(tmp_path, vault) as it:
        yield it


@pytest.fixture(scope="module")
def own_vault(raft_vault: Callable[[], RaftVault]) -> RaftVault:
    return raft_vault()


@pytest.fixture
def there(own_vault: RaftVault, tmp_path: Path) -> Iterator[Scene]:
    """On a Vault of these tests' own."""
    with scene(tmp_path, own_vault) as it:
        yield it


def complaints(source: Daemon | Result) -> Lines:
    """Return rotator's own log lines above info, without the configuration's warnings."""
    lines = source.events() if isinstance(source, Daemon) else [json.loads(line) for line in source.stderr.splitlines()]
    worries = [line for line in lines if line["level"] != "info" and "logger" not in line]
    return [line for line in worries if line["event"] != "configuration_warning"]


def the_one(source: Daemon | Result) -> dict[str, Any]:
    """The one complaint."""
    found = complaints(source)
    assert len(found) == 1, found
    return found[0]


# --- sealed and restarted --------------------------------------------------------------------------------------------

UNSEAL = "Unseal it (`vault operator unseal` on each node). The keys work until they expire."


def test_restarted_and_so_sealed(there: Scene, own_vault: RaftVault) -> None:
    there.rotator.run("run", "--once", status=0)
    own_vault.kill()
    away = the_one(there.rotator.run("run", "--once", status=3))
    where = own_vault.address.removeprefix("http://")
    assert (away["event"], away["target"]) == ("target_failed", "a")
    assert away["error"] == (
        "Vault did not answer at sys/health, and nothing was changed: "
        f"the connection to {where} failed (Connection refused)"
    )
    assert away["advice"].startswith("Check Vault, the store's address")

    own_vault.start()
    with ThreadPoolExecutor() as pool:
        commands = [("run", "--once"), ("status",), ("rotate", "a")]
        once, looked, rotated = pool.map(lambda command: there.rotator.run(*command, status=3), commands)
    own_vault.unseal()
    sealed = "Vault is sealed: it did not answer at sys/health, and nothing was changed"
    assert once.stdout == "0 rotated, 0 unchanged, 0 foreign, 1 failed\n"
    failed = the_one(once)
    assert (failed["event"], failed["target"], failed["error"]) == ("target_failed", "a", sealed)
    assert (failed["advice"], failed["served"]) == (
        UNSEAL,
        "an unknown key, because the path could not be read: most likely the same as before",
    )
    assert (looked.stdout, looked.stderr) == ("", f"rotator: {sealed}\n  {UNSEAL}\n")
    assert rotated.stdout.splitlines()[0] == f"a: failed: {sealed}"
    assert rotated.stdout.splitlines()[-1].strip() == UNSEAL
    assert there.fates() == ["served"]
    there.rotator.run("rotate", "a", status=0)
    assert there.fates() == ["in grace", "served"]


def test_sealed_between_create_and_publish(there: Scene, own_vault: RaftVault) -> None:
    daemon = there.rotator.start()
    daemon.wait_for("key_published")
    there.rotator.simulator.faults.add(Fault("slow", "create", seconds=0.5))
    daemon.signal(signal.SIGUSR1)
    wait_until(lambda: len(there.rotator.calls("create")) == 2, "a create under way")
    own_vault.seal()
    down = daemon.wait_for("upstream_down")
    own_vault.unseal()
    assert down["error"] == f"Vault is sealed: it did not write to {there.name.format('data')}, and nothing was changed"
    assert (down["upstream"], down["advice"]) == ("store store", UNSEAL)
    assert there.fates() == ["served", "live"], "a proxy could have refused a write that landed: the key is kept"
    [left] = [line for line in complaints(daemon) if line != down]
    assert (left["event"], left["key_id"]) == ("key_not_removed", there.key_id(2))
    assert daemon.stop() == 0
    there.rotator.run("rotate", "a", status=0)
    there.sweep()
    assert there.fates() == ["in grace", "in grace", "served"]


def test_restarted_between_create_and_publish(there: Scene, own_vault: RaftVault) -> None:
    daemon = there.rotator.start()
    daemon.wait_for("key_published")
    there.rotator.simulator.faults.add(Fault("slow", "create", seconds=0.5))
    daemon.signal(signal.SIGUSR1)
    wait_until(lambda: len(there.rotator.calls("create")) == 2, "a create under way")
    own_vault.kill()
    daemon.wait_for("key_created", 2)
    own_vault.start()
    own_vault.unseal()
    # What meets it sealed may still be on its way: the key is left to the sweep. What does not is sent again.
    daemon.wait_for("key_shortened", reason="superseded")
    assert daemon.stop() == 0
    left = daemon.events("key_not_removed")
    assert len(left) == len(daemon.events("target_failed")) <= 1
    assert all("and whether it did is not known: the connection to" in line["error"] for line in left)
    there.sweep()
    assert there.fates() == [*["in grace"] * (1 + len(left)), "served"]


# --- an older snapshot -----------------------------------------------------------------------------------------------


def test_an_older_snapshot(own_vault: RaftVault, tmp_path: Path) -> None:
    with scene(tmp_path, own_vault, ("a", "b")) as it:
        it.use_approle()
        it.rotator.run("run", "--once", status=0)
        snapshot = own_vault.request("GET", "sys/storage/raft/snapshot").raise_for_status().content

        daemon = it.rotator.start()  # its token is younger than the snapshot
        it.rotated(daemon, 1)
        it.rotated(daemon, 2)
        daemon.wait_for("key_shortened", 2, target="b")
        assert daemon.stop() == 0
        it.vendor.delete(it.key_id(1, "b"))
        assert it.fates("a") == ["in grace", "in grace", "served"]
        assert it.fates("b") == ["ended", "in grace", "served"]
        first = it.key_id(1)
        httpx.post(
            f"{own_vault.address}/v1/sys/storage/raft/snapshot-force",
            content=snapshot,
            headers={"X-Vault-Token": own_vault.root_token},
            trust_env=False,
            timeout=30,
        ).raise_for_status()
        wait_until(lambda: it.paths.metadata("apps/a")["current_version"] == 1, "the snapshot to be in force")
        assert it.fates("a") == ["served, in grace", "in grace", "live"]

        swept = it.rotator.run("sweep", status=0)
        assert it.fates("a") == ["served", "in grace", "in grace"], "restored; nothing was created"
        assert it.fates("b") == ["ended", "in grace", "in grace", "served"], "replaced"
        assert it.served() == first
        last = f"a: orphan {it.key_id(3)} ("
        assert next(line for line in swept.stdout.splitlines() if line.startswith(last)).endswith("Z")
        assert f"b: rotated (missing): key {it.key_id(4, 'b')}, until " in swept.stdout
        logged = [json.loads(line) for line in swept.stderr.splitlines()]
        assert {line["level"] for line in logged} == {"info"}, "what changed, and no trouble"
        again = len(it.rotator.calls("create", "update", "delete"))
        it.rotator.run("sweep", status=0)
        assert len(it.rotator.calls("create", "update", "delete")) == again


# --- a standby -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RaftVault]]:
    if not vaults.find_vault():
        pytest.skip(vaults.NO_VAULT)
    with vaults.raft_cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


def test_a_leader_that_comes_back_from_the_past_and_a_standby_whose_leader_is_gone(
    cluster: list[RaftVault], tmp_path: Path
) -> None:
    first, *others = cluster
    with scene(tmp_path, first) as it:
        del it.rotator.config["stores"]["store"]["address"]
        it.rotator.environment["VAULT_ADDR"] = first.address
        daemon = it.rotator.start()
        daemon.wait_for("sweep_completed")
        daemon.wait_for("key_published")

        # The leader stands still; the others go on without it; then it answers what it was asked meanwhile.
        first.freeze()
        daemon.signal(signal.SIGUSR1)
        daemon.wait_for("rotation_requested")
        wait_until(lambda: any(node.health == 200 for node in others), "another leader")
        [leader] = [node for node in others if node.health == 200]
        [third] = [node for node in others if node is not leader]
        it.paths.vault = leader
        it.rotator.run("rotate", "a", status=0, VAULT_ADDR=leader.address)
        assert it.fates() == ["in grace", "served"]
        first.thaw()
        # It publishes after that one; or finds that it is late, and removes its own key.
        wait_until(
            lambda: bool(daemon.events("key_published", version=3) + daemon.events("publish_conflict")), "an end"
        )
        wait_until(lambda: "live" not in it.fates(), "the other keys to be shortened")
        works = [state for state in it.fates() if state != "ended"]
        assert works in (["in grace", "in grace", "served"], ["in grace", "served"])
        before = complaints(daemon)

        # No node leads: the leader is gone, and one of the other two is frozen.
        third.freeze()
        leader.kill()
        failed = daemon.wait_for("upstream_down")
        assert failed["level"] == "warning", "the next leader heals it"
        third.thaw()
        # It redirects to the leader that it knew, or has none to forward to.
        assert failed["error"].startswith("Vault did not "), failed
        assert ", and nothing was changed: " in failed["error"]
        assert failed["advice"]
        it.paths.vault = first
        wait_until(lambda: it.served() is not None, "a new leader")
        lines = complaints(daemon)[len(before) :]
        assert [line for line in lines if line["event"] != "login_failed"] == [failed]
        assert daemon.stop() == 0
        once = it.rotator.run("run", "--once", status=0)
        assert (once.stdout, complaints(once)) == ("0 rotated, 1 unchanged, 0 foreign, 0 failed\n", [])
        assert [state for state in it.fates() if state != "ended"] == works


class Past:
    """A Vault, but what is read of one mount is what it was when this was made.

    A standby without contact to its leader answers like this; writes go to the leader.
    """

    def __init__(self, paths: VaultPaths) -> None:
        self._vault, self._mount = paths.vault, f"/v1/{paths.mount}/"
        asked = [Asked("GET", f"{self._mount}{kind}/apps/a", {}, b"") for kind in ("metadata", "data")]
        self._read = {one.path: self._ask(one, paths.vault.root_token) for one in asked}

    def answer(self, asked: Asked) -> Reply:
        if asked.method == "GET" and asked.path.startswith(self._mount):
            return self._read[asked.path]
        return self._ask(asked, asked.headers.get("x-vault-token", ""))

    def _ask(self, asked: Asked, token: str) -> Reply:
        body = json.loads(asked.body) if asked.body else None
        found = self._vault.request(asked.method, asked.path.removeprefix("/v1/"), body, token)
        return Reply(found.status_code, found.json() if found.content else "")


def test_a_standby_that_answers_from_the_past(here: Scene) -> None:
    here.rotator.run("run", "--once", status=0)
    past = Past(here.paths)
    store = here.rotator.config["stores"]["store"]
    leader = store["address"]
    with canned(past.answer) as standby:
        here.rotator.run("rotate", "a", status=0)
        assert here.fates() == ["in grace", "served"]
        second = here.vendor.keys[here.key_id(2)]
        wait_until(lambda: here.vendor.now() - second.created_at > timedelta(seconds=1), "it to be no news to a sweep")

        store["address"] = standby.address
        swept = here.rotator.run("sweep", status=0)
        assert here.fates()[1] == "served", "which looks like an orphan from there"
        assert (
            f"a: orphan {second.id} ({second.name}) is left alone: "
            "its path changed meanwhile; the next sweep looks again\n"
        ) in swept.stdout
        rotated = here.rotator.run("rotate", "a", status=1)
        assert here.fates()[1:] == ["served", "live"]
        assert rotated.stdout.splitlines()[0] == (
            "a: failed: version 2 of apps/a cannot be read, so it is not known whether our key is in it"
        )
        logged = [json.loads(line) for line in rotated.stderr.splitlines()]
        [left] = [line for line in logged if line["level"] != "info"]
        assert (left["event"], left["target"], left["key_id"]) == ("key_not_removed", "a", here.key_id(3))

        store["address"] = leader
        here.sweep()
        assert here.fates() == ["in grace", "served", "in grace"]


# --- the token and the policy ----------------------------------------------------------------------------------------


def revoke_tokens(vault: VaultServer, policy: str) -> int:
    """Revoke the tokens with this policy; how many there were."""
    accessors = vault.request("LIST", "auth/token/accessors").raise_for_status().json()["data"]["keys"]
    revoked = 0
    for accessor in accessors:
        found = vault.request("POST", "auth/token/lookup-accessor", {"accessor": accessor})
        if found.is_success and policy in found.json()["data"]["policies"]:
            vault.request("POST", "auth/token/revoke-accessor", {"accessor": accessor}).raise_for_status()
            revoked += 1
    return revoked


def revoked_between_create_and_publish(here: Scene, policy: str) -> Daemon:
    """A daemon whose token was valid when it created its second key, and revoked when it published it."""
    daemon = here.rotator.start()
    daemon.wait_for("key_published")
    here.rotator.simulator.faults.add(Fault("slow", "create", seconds=3.0))
    daemon.signal(signal.SIGUSR1)
    wait_until(lambda: len(here.rotator.calls("create")) == 2, "a create under way")
    assert revoke_tokens(here.paths.vault, policy) == 1
    return daemon


def test_a_token_revoked_midway_is_replaced_where_there_is_a_login(here: Scene) -> None:
    daemon = revoked_between_create_and_publish(here, here.use_approle())
    daemon.wait_for("key_shortened", reason="superseded")
    assert here.fates() == ["in grace", "served"]
    assert complaints(daemon) == []
    assert daemon.stop() == 0


def test_a_token_revoked_midway_is_named_where_there_is_none_but_it(here: Scene) -> None:
    daemon = revoked_between_create_and_publish(here, here.policy)
    down = daemon.wait_for("upstream_down")
    assert here.fates() == ["served", "live"], "a proxy could have refused a write that landed: the key is kept"
    created = len(here.rotator.calls("create"))
    assert down["error"].startswith("Vault calls the token invalid (403: ")
    assert down["advice"] == "It is expired, revoked or used up. Replace the credentials that rotator logs in with."
    [left] = [line for line in complaints(daemon) if line != down]
    assert (left["event"], left["key_id"]) == ("key_not_removed", here.key_id(2))
    assert daemon.stop() == 0
    looked = here.rotator.run("status", status=3)
    assert looked.stderr.startswith("rotator: Vault calls the token invalid (403: ")
    assert len(here.rotator.calls("create")) == created
    here.rotator.environment["VAULT_TOKEN"] = here.paths.token()
    here.rotator.run("rotate", "a", status=0)
    here.sweep()
    assert here.fates() == ["in grace", "in grace", "served"]


def allowing(path: str, *capabilities: str) -> str:
    """The policy of least rights, with only these on one kind of path."""
    wanted = f'path "{{mount}}/{path}/*" {{{{ capabilities = {json.dumps(capabilities)} }}}}'
    return "\n".join(wanted if f"/{path}/" in rule else rule for rule in LEAST_RIGHTS.splitlines())


def test_a_narrowed_policy_is_named_before_anything_is_created(here: Scene) -> None:
    daemon = here.rotator.start()
    daemon.wait_for("key_published")
    narrowed = [
        (allowing("data", "read"), "create` or `update", "data", '"create", "read", "update"'),
        (allowing("data", "create", "update"), "read", "data", '"create", "read", "update"'),
        (allowing("metadata", "deny"), "read", "metadata", '"read"'),
    ]
    for number, (policy, right, kind, rights) in enumerate(narrowed, 1):
        here.set_policy(here.policy, policy)
        daemon.signal(signal.SIGUSR1)
        failed = daemon.wait_for("target_failed", number)
        path = here.name.format(kind)
        assert failed["error"].startswith(f"Vault's policy denies `{right}` on {path} (403: ")
        assert failed["advice"].startswith(f'The policy must have: path "{path}" {{ capabilities = [{rights}] }}')
        assert (failed["level"], failed["target"]) == ("error", "a")
        assert here.fates() == ["in grace"] * (number - 1) + ["served"]
        here.set_policy(here.policy, LEAST_RIGHTS)
        here.rotated(daemon, number)
        daemon.wait_for("target_recovered", number)
        assert here.fates() == ["in grace"] * number + ["served"]
        assert len(complaints(daemon)) == number
    assert daemon.stop() == 0


def test_without_the_right_to_destroy_a_superseded_key_ends_all_the_same(here: Scene) -> None:
    here.rotator.config["defaults"]["grace_period"] = "1s"
    daemon = here.rotator.start()
    daemon.wait_for("key_published")
    here.set_policy(here.policy, allowing("destroy", "deny"))
    here.rotated(daemon, 1)
    failed = daemon.wait_for("target_failed")
    assert here.fates() == ["ended", "served"]
    path = here.name.format("destroy")
    assert failed["error"].startswith(f"Vault's policy denies `update` on {path} (403: ")
    assert f'path "{path}" {{ capabilities = ["update"] }}' in failed["advice"]
    assert failed["served"].startswith(f"the key {here.key_id(2)}, until ")
    here.set_policy(here.policy, LEAST_RIGHTS)
    here.rotated(daemon, 2)
    daemon.wait_for("key_deleted", key_id=here.key_id(1))
    assert here.paths.versions("apps/a")["1"]["destroyed"]
    assert (here.fates()[0], here.fates()[2]) == ("ended", "served")
    assert the_one(daemon) == failed
    assert daemon.stop() == 0


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_the_metadata_deleted_and_so_the_counter_starts_again(here: Scene) -> None:
    here.rotator.config["sweep"] |= {"interval": "1s"}
    daemon = here.rotator.start()
    here.rotated(daemon, 1)
    here.rotated(daemon, 2)
    here.kv("DELETE", "metadata")
    published = daemon.wait_for("key_published", 4)
    assert (published["reason"], published["version"]) == ("emptied", 1)
    daemon.wait_for("path_fenced")  # the third key was meant for a version that is to come again
    daemon.wait_for("key_shortened", reason="orphan", key_id=here.key_id(3))
    assert here.fates() == ["in grace", "in grace", "in grace", "served"]
    here.rotated(daemon, 3)
    assert here.fates() == ["in grace"] * 4 + ["served"]
    assert here.paths.metadata("apps/a")["current_version"] == 3
    assert [event["event"] for event in complaints(daemon)] == ["path_emptied"]
    assert daemon.stop() == 0


def test_kv_rollback(here: Scene) -> None:
    daemon = here.rotator.start()
    here.rotated(daemon, 1)
    here.kv_rollback(1)
    restored = daemon.wait_for("key_restored")
    assert (restored["key_id"], restored["reason"]) == (here.key_id(1), "restored")
    daemon.wait_for("key_shortened", key_id=here.key_id(2))
    assert here.fates() == ["served", "in grace"]

    # To a key that a person has removed.
    here.vendor.delete(here.key_id(2))
    here.kv_rollback(2)
    published = daemon.wait_for("key_published", 3)
    assert (published["reason"], published["version"]) == ("missing", 5)
    wait_until(lambda: here.fates() == ["in grace", "ended", "served"], "the first key to be shortened, too")
    assert complaints(daemon) == []
    assert daemon.stop() == 0


def test_the_runbook_s_ways_back_from_an_overwritten_and_a_deleted_path(here: Scene) -> None:
    """As they stand there. `rotator rollback`, which one would think of first, is refused: there is no way for it."""
    runbook = Path(__file__).parents[2] / "docs" / "runbook.md"
    spoken_of = set(re.findall(r"`vault (kv [^`]+ PATH)`", runbook.read_text()))
    fill = {"MOUNT": here.paths.mount, "N": "1", "PATH": "apps/a"}

    def by_hand(verb: str) -> str:
        [command] = [command for command in spoken_of if command.startswith(verb)]
        words = re.sub("MOUNT|PATH|N(?= )", lambda found: fill[found[0]], command).split()
        vault, environment = here.paths.vault, {"HOME": str(here.rotator.folder)}
        environment |= {"VAULT_ADDR": vault.address, "VAULT_TOKEN": vault.root_token}
        return subprocess.run(
            [vaults.vault_program(), *words], env=environment, capture_output=True, text=True, timeout=30, check=True
        ).stdout

    here.rotator.run("rotate", "a", status=0)
    first = here.key_id(1)
    here.paths.put("apps/a", {"api_key": "another team's"})
    refused = here.rotator.run("rollback", "a", status=1).stdout
    assert "apps/a is not ours (no-record), and was left as it is" in refused
    assert "Version 2" in by_hand("kv metadata get")
    assert f"key_id={first}," in by_hand("kv get")
    by_hand("kv rollback")
    assert here.served() == first

    here.paths.vault.request("DELETE", here.name.format("data")).raise_for_status()
    assert "the newest version of apps/a is deleted" in here.rotator.run("rollback", "a", status=1).stdout
    fill["N"] = "3"
    by_hand("kv undelete")
    assert here.served() == first
    assert here.rotator.run("run", "--once", status=0).stdout == "0 rotated, 1 unchanged, 0 foreign, 0 failed\n"
    assert here.fates() == ["served"]


def test_put_and_patch(vault: VaultServer, tmp_path: Path) -> None:
    with scene(tmp_path, vault, ("put", "key", "field")) as it:
        it.rotator.run("rotate", "--all", status=0)
        it.rotator.run("rotate", "--all", status=0)
        it.paths.put("apps/put", {"api_key": "theirs"})
        it.kv_patch("apps/key", api_key="theirs")
        it.kv_patch("apps/field", region="eu")
        calls = len(it.rotator.calls())

        once = it.rotator.run("run", "--once", status=1)
        assert once.stdout == "0 rotated, 1 unchanged, 2 foreign, 0 failed\n"
        lines = {line["target"]: line for line in complaints(once)}
        assert len(lines) == len(complaints(once))
        assert {name: line["reason"] for name, line in lines.items()} == {"put": "no-record", "key": "hand-edited"}
        for name, line in lines.items():
            assert (line["event"], line["level"], line["path"]) == ("target_foreign", "error", f"apps/{name}")
            assert line["advice"] == (
                f"If rotator is meant to keep apps/{name}, run `rotator rotate {name} --adopt`: "
                "the key's field is overwritten, its other fields stay, "
                "and the overwritten key works until you revoke it."
            )
            assert (it.paths.read(f"apps/{name}") or {})["api_key"] == "theirs"
            assert it.fates(name) == ["in grace", "live"]
        assert it.fates("field") == ["in grace", "served"]
        assert [call.operation for call in it.rotator.calls()[calls:]] == ["retrieve"] * 2, "of what is ours"
        looked = it.rotator.run("status", status=4).stdout.splitlines()
        assert [line.split("\t")[:2] for line in looked] == [["key", "foreign"], ["put", "foreign"], ["field", "ok"]]

        it.rotator.run("rotate", "--all", "--adopt", status=0)
        for name in ("put", "key", "field"):
            assert it.fates(name) == ["in grace", "in grace", "served"]
        assert (it.paths.read("apps/field") or {})["region"] == "eu"


# --- a history of one ------------------------------------------------------------------------------------------------


def test_a_history_of_one_version(here: Scene) -> None:
    here.rotator.config["sweep"] |= {"interval": "1s"}
    here.kv("POST", "metadata", {"max_versions": 1})
    daemon = here.rotator.start()
    here.rotated(daemon, 1)
    assert here.fates() == ["in grace", "served"]
    # Again, and this time the provider does not let the key be shortened: only the provider knows of it now.
    here.rotator.simulator.faults.add(Fault("refuse", "update", status=422))
    daemon.signal(signal.SIGUSR1)
    failed = daemon.wait_for("target_failed")
    assert failed["error"].startswith("Respan refused to change a key's expiry (422: ")
    assert failed["served"].startswith(f"the key {here.key_id(3)}, until ")
    daemon.wait_for("key_shortened", reason="orphan", key_id=here.key_id(2))
    assert here.fates() == ["in grace", "in grace", "served"]
    assert list(here.paths.versions("apps/a")) == ["3"]
    assert the_one(daemon) == failed
    # What is out of grace is tidied away by the sweep.
    here.vendor.update(here.key_id(1), {"expiry_date": here.vendor.now().isoformat()})
    daemon.wait_for("key_deleted", reason="orphan", key_id=here.key_id(1))
    assert here.fates() == ["ended", "in grace", "served"]
    assert here.rotator.run("rollback", "a", status=1).stdout.startswith(
        "a: failed: apps/a holds no previous key to go back to\n"
    )
    assert daemon.stop() == 0
