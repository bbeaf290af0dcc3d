"""A Vault that is sealed, gone, frozen, restarted, or not Vault at all: which error it is, and in which words."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import pytest
from support.canned import Asked, Canned, Reply, canned
from support.clocks import FakeClock
from support.process import free_ports, wait_until
from support.vault import RaftVault
from support.vaultstore import (
    DATA,
    DENIED,
    KEY,
    TOKEN,
    MeteredStore,
    OpenStore,
    all_methods,
    answering,
    assert_hides,
    assert_unsettled,
    empty,
)

from rotator.config.values import VaultReference
from rotator.core.errors import (
    StoreError,
    StoreOutcomeUnknown,
    StorePermissionDenied,
    StoreRequestRefused,
    StoreSealed,
    StoreUnavailable,
)
from rotator.runtime.breaker import FIRST_WAIT

pytestmark = pytest.mark.usefixtures("no_waiting")

# --- a real one that is broken ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_vault(raft_vault: Callable[[], RaftVault]) -> RaftVault:
    return raft_vault()


def test_a_sealed_vault_does_nothing_and_is_reported(own_vault: RaftVault, open_store: OpenStore) -> None:
    mount = own_vault.new_mount()
    used = open_store(own_vault.address, mount, own_vault.root_token)
    used.history("app")
    fresh = open_store(own_vault.address, mount, own_vault.root_token)

    own_vault.seal()
    try:
        for store in (used, fresh):
            for method in all_methods(store).values():
                with pytest.raises(StoreSealed, match="Vault is sealed") as raised:
                    method()
                assert_hides(raised.value, KEY, own_vault.root_token)
    finally:
        own_vault.unseal()

    for store in (used, fresh):
        store.client.circuit.worked()
        assert store.history("app").current_version == 0
    assert used.location("app") == fresh.location("app")


def test_a_vault_that_was_restarted_is_used_on(own_vault: RaftVault, open_store: OpenStore) -> None:
    store = open_store(own_vault.address, own_vault.new_mount(), own_vault.root_token)
    location = store.location("app")
    store.write("app", DATA, cas=0)

    own_vault.stop()
    assert_unsettled(store, "Connection refused", own_vault.root_token, but=("location",))
    assert {outcome for _, outcome in store.metered.take()} == {"200", "connection"}
    own_vault.start()
    store.client.circuit.worked()
    with pytest.raises(StoreSealed):
        store.history("app")
    own_vault.unseal()

    store.client.circuit.worked()
    assert store.history("app").current_version == 1
    assert open_store(own_vault.address, store.mount, own_vault.root_token).location("app") == location


@pytest.mark.parametrize("sends_headers", [True, False], ids=["retry-after", "silent"])
def test_a_quota_slows_all_threads_down_and_refuses_few(
    own_vault: RaftVault, open_store: OpenStore, sends_headers: bool
) -> None:
    """As three hundred targets with 20 requests a second: nearly all of their requests were refused."""
    mount, reads = own_vault.new_mount(), 100
    store = open_store(own_vault.address, mount, own_vault.root_token)
    store.history("app")
    own_vault.request(
        "POST", "sys/quotas/config", {"enable_rate_limit_response_headers": sends_headers}
    ).raise_for_status()
    quota = {"rate": 40, "interval": "1s", "path": mount}
    own_vault.request("POST", "sys/quotas/rate-limit/few", quota).raise_for_status()
    store.metered.take()
    try:
        with ThreadPoolExecutor(8) as pool:
            histories = list(pool.map(store.history, (f"app-{number}" for number in range(reads))))
    finally:
        own_vault.request("DELETE", "sys/quotas/rate-limit/few").raise_for_status()

    assert [history.current_version for history in histories] == [0] * reads
    refused = [outcome for _, outcome in store.metered.take()].count("429")
    assert 0 < refused < 40


def freeze(vault: RaftVault) -> None:
    """Freeze it, and wait until it is: what was under way may still be answered."""
    vault.freeze()

    def is_frozen() -> bool:
        try:
            httpx.get(f"{vault.address}/v1/sys/health", timeout=0.1, trust_env=False, verify=False)
        except httpx.TimeoutException:
            return True
        return False

    wait_until(is_frozen, "Vault to stand still")


def test_a_frozen_vault_is_given_up_in_time(own_vault: RaftVault, open_store: OpenStore) -> None:
    store = open_store(own_vault.address, own_vault.new_mount(), own_vault.root_token, timeout=0.1)
    store.keep_login()

    freeze(own_vault)
    try:
        assert_unsettled(store, "no answer from 127.0.0.1", own_vault.root_token)
    finally:
        own_vault.thaw()

    assert {outcome for _, outcome in store.metered.take()} == {"200", "timeout"}


def test_data_over_the_storages_own_limit_is_definitely_refused(own_vault: RaftVault, open_store: OpenStore) -> None:
    store = open_store(own_vault.address, own_vault.new_mount(), own_vault.root_token)

    with pytest.raises(StoreRequestRefused, match="value being too large"):
        store.write("app", {"a": "x" * 900_000, "b": "x" * 900_000}, cas=0)

    assert store.history("app").current_version == 0


def test_a_vault_that_is_not_there_is_named(open_store: OpenStore) -> None:
    [port] = free_ports(1)
    store = open_store(f"http://127.0.0.1:{port}", "secret", TOKEN)

    assert_unsettled(store, f"the connection to 127.0.0.1:{port} failed (Connection refused)", TOKEN)
    with pytest.raises(StoreUnavailable, match="Connection refused"):
        store.keep_login()


def test_a_host_that_has_no_address_is_named(open_store: OpenStore) -> None:
    store = open_store("http://vault.invalid:8200", "secret", TOKEN)

    with pytest.raises(StoreUnavailable, match=r"the connection to vault\.invalid:8200 failed"):
        store.history("app")


# --- what is not quite Vault -----------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Canned]:
    with canned(lambda _: Reply(500)) as server:
        yield server


@pytest.fixture
def store(server: Canned, open_store: OpenStore) -> MeteredStore:
    return open_store(server.address, "kv", TOKEN)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(412, {"errors": ["required index state not present"]}), "not seen the latest writes"),
        (Reply(472, ""), "a disaster recovery secondary answered"),
        (Reply(473, ""), "a performance standby answered"),
        (Reply(500, {"errors": ["internal error"]}), "Vault failed (500: internal error)"),
        (
            Reply(500, {"errors": ["local node not active but active cluster node not found"]}),
            "active cluster node not found",
        ),
        (
            Reply(503, {"errors": ["Vault is not ready"]}),
            "has no active node, or is starting (503: Vault is not ready)",
        ),
        (Reply(503, "<html>no healthy upstream"), "Vault is not ready"),
        (Reply(502, "<html>Bad Gateway"), "a proxy got no answer from Vault"),
        (Reply(504, "<html>Gateway Timeout"), "a proxy got no answer from Vault in time"),
        (Reply(200, "<html>Please log in"), "a proxy"),
        (Reply(200, {"data": {"versions": 7}}), "a proxy"),
        (Reply(200, "[1]"), "a proxy"),
        (Reply(404, "<html>Not Found"), "the answer is not Vault's"),
        (Reply(404, {"message": "no such route"}), "the answer is not Vault's"),
        (Reply(418, {"errors": ["teapot"]}), "an unexpected answer (418: teapot)"),
        (Reply(302, "", {"Location": "https://sso.example.com/login?next=x"}), "a redirect to sso.example.com"),
        (Reply(200, "x" * 1000, drips=True), "no answer from 127.0.0.1"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else value[:20],
)
def test_what_is_not_a_clear_answer_is_unsettled_in_clear_words(
    server: Canned, open_store: OpenStore, reply: Reply, words: str
) -> None:
    server.answer = answering(reply)
    store = open_store(server.address, "kv", TOKEN, timeout=0.05 if reply.drips else 2.0)
    # Vault answers a destroy with a 204 or an empty 200 alone; sys/health is judged by its body.
    but = ("location", "destroy") if reply.status == 200 and not reply.drips else ()

    assert_unsettled(store, words, TOKEN, but=but)

    asked = [asked.path for asked in server.asked if asked.method == "POST" and "/kv/" in asked.path]
    assert len(asked) == (2 if "destroy" not in but else 1)  # changes are sent once; a proof not without a mount


def test_reads_are_tried_three_times_and_changes_once(server: Canned, store: MeteredStore) -> None:
    server.answer = answering(Reply(500, {"errors": ["internal error"]}))
    for method in all_methods(store).values():
        with pytest.raises(StoreError):
            method()

    asked = [request for request in store.metered.take() if request[0] != "login"]
    is_it_down = [("health", "500")] * 3  # asked after a read that failed

    assert asked == [
        *[("metadata", "500")] * 3,
        *is_it_down,
        *[("mount", "500")] * 3,
        *is_it_down,
        ("write", "500"),
        ("destroy", "500"),
        *[("health", "500")] * 3,
    ]


def test_a_vault_that_is_down_is_asked_by_one_read_now_and_then(server: Canned, open_store: OpenStore) -> None:
    clock = FakeClock(datetime.now(UTC))
    store = open_store(server.address, "kv", TOKEN, clock=clock)
    server.answer = answering(Reply(503, {"errors": ["Vault is sealed"]}))
    with pytest.raises(StoreSealed):
        store.history("app")
    before = len(server.asked)
    for _ in range(5):
        with pytest.raises(StoreSealed, match="Vault is sealed"):
            store.history("another")
    assert len(server.asked) == before
    clock.sleep(FIRST_WAIT)
    for _ in range(5):
        with pytest.raises(StoreSealed):
            store.history("another")
    assert len(server.asked) == before + 1
    server.answer = empty
    clock.sleep(2 * FIRST_WAIT)
    assert store.history("another").current_version == 0
    assert store.history("app").current_version == 0


@pytest.mark.parametrize("method", ["write", "destroy"])
def test_a_change_that_finds_it_sealed_stops_the_reads(server: Canned, store: MeteredStore, method: str) -> None:
    server.answer = answering(Reply(503, {"errors": ["Vault is sealed"]}))
    with pytest.raises(StoreSealed) as refused:
        all_methods(store)[method]()
    before = len(server.asked)
    with pytest.raises(StoreSealed) as known:
        store.history("app")
    assert known.value is refused.value
    assert len(server.asked) == before


def test_a_standby_without_an_active_node_is_down(server: Canned, store: MeteredStore) -> None:
    standby = Reply(429, {"cluster_id": "c", "standby": True, "sealed": False})
    server.answer = lambda asked: (
        DENIED
        if asked.path.endswith("lookup-self")
        else standby
        if asked.path.endswith("/health")
        else Reply(500, {"errors": ["local node not active but active cluster node not found"]})
    )
    with pytest.raises(StoreUnavailable) as first:
        store.history("app")
    with pytest.raises(StoreUnavailable) as known:
        store.history("another")
    assert known.value is first.value


def test_one_path_that_fails_does_not_stop_the_others(server: Canned, store: MeteredStore) -> None:
    def answer(asked: Asked) -> Reply:
        if asked.path.endswith("/bad"):
            return Reply(500, {"errors": ["internal error"]})
        return Reply(200, {"cluster_id": "c"}) if asked.path.endswith("/health") else empty(asked)

    server.answer = answer
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            store.history("bad")
        assert store.history("good").current_version == 0


def test_a_read_that_fails_once_is_no_failure(server: Canned, store: MeteredStore) -> None:
    refusals = [Reply(503, "<html>no healthy upstream")]
    server.answer = lambda asked: refusals.pop() if refusals and "metadata" in asked.path else empty(asked)

    assert store.history("app").current_version == 0


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(413, "<html>Request Entity Too Large"), StoreRequestRefused),
        (Reply(400, {"errors": ["missing data"]}), StoreRequestRefused),
        (Reply(403, "<html>Forbidden"), StorePermissionDenied),
        (Reply(503, {"errors": ["Vault is sealed"]}), StoreSealed),
    ],
)
def test_a_definite_refusal_of_a_write_is_reported_as_one(
    server: Canned, store: MeteredStore, reply: Reply, error: type[StoreError]
) -> None:
    server.answer = answering(reply)

    with pytest.raises(error) as raised:
        store.write("app", DATA, cas=0)

    assert_hides(raised.value, TOKEN, KEY)


def test_a_write_whose_login_cannot_be_tried_is_unknown(server: Canned, store: MeteredStore) -> None:
    server.answer = lambda _: Reply(500, {"errors": ["internal error"]})

    with pytest.raises(StoreOutcomeUnknown, match="log in through auth/token/lookup-self"):
        store.write("app", DATA, cas=0)

    assert server.paths("POST") == []


def test_only_vaults_own_words_are_quoted_and_not_many(server: Canned, store: MeteredStore) -> None:
    words = "bad\x1b[31m thing\n\n" + "x" * 1000
    server.answer = answering(Reply(400, {"errors": [words], "data": {"echo": KEY}}))

    with pytest.raises(StoreRequestRefused) as raised:
        store.write("app", DATA, cas=0)

    assert "bad\\x1b[31m thing xxx" in raised.value.message
    assert len(raised.value.message) < 400
    assert_hides(raised.value, KEY, TOKEN)


def test_a_dripping_answer_gives_its_connection_back(server: Canned, open_store: OpenStore) -> None:
    server.answer = answering(Reply(200, "x" * 1000, drips=True))
    store = open_store(server.address, "kv", TOKEN, timeout=0.1, connections=1)

    for _ in range(3):
        with pytest.raises(StoreOutcomeUnknown, match="no answer"):
            store.write("app", DATA, cas=0)


# --- histories that a real Vault does not give on demand ------------------------------------------------------------


def version(deletion_time: str = "") -> dict[str, object]:
    return {"created_time": "2026-03-01T12:00:00.5Z", "deletion_time": deletion_time, "destroyed": False}


def keeping(current: int, versions: dict[int, dict[str, object]], readable: set[int]) -> Callable[[Asked], Reply]:
    """Answers as a Vault with this history; what is not `readable` is not there at all."""

    def answer(asked: Asked) -> Reply:
        if asked.path.startswith("/v1/kv/metadata/"):
            body = {"data": {"current_version": current, "versions": versions}}
            return Reply(200, body, {"Date": "Sun, 01 Mar 2026 13:00:00 GMT"})
        if asked.path.startswith("/v1/kv/data/"):
            number = int(asked.path.partition("?version=")[2] or current)
            if number in readable:
                facts = {**versions[number], "version": number}
                return Reply(200, {"data": {"data": {"n": str(number)}, "metadata": facts}})
            return Reply(404, {"errors": []})
        return DENIED

    return answer


def test_deleted_versions_are_not_asked_for_and_those_that_will_be_are(server: Canned, store: MeteredStore) -> None:
    versions = {1: version("2026-03-01T12:59:59.9Z"), 2: version("2026-03-01T13:00:00.1Z"), 3: version()}
    server.answer = keeping(3, versions, {1, 2, 3})

    history = store.history("app")

    assert [found.data for found in history.versions] == [None, {"n": "2"}, {"n": "3"}]
    assert server.paths("GET")[2:] == ["/v1/kv/data/app?version=2", "/v1/kv/data/app"]


def test_a_counter_without_its_version_is_a_history_without_a_current_one(server: Canned, store: MeteredStore) -> None:
    server.answer = keeping(5, {3: version()}, {3})

    history = store.history("app")

    assert (history.current_version, history.current) == (5, None)
    assert [found.data for found in history.versions] == [{"n": "3"}]


@pytest.mark.parametrize("page", [Reply(200, "<html>Down for maintenance"), Reply(200, {}), Reply(204)], ids=str)
def test_a_page_in_place_of_a_version_is_no_absent_version(server: Canned, store: MeteredStore, page: Reply) -> None:
    server.answer = empty
    assert store.newest("app").current_version == 0, "and from now on the mount is known"
    server.answer = answering(page)
    for look in (lambda: store.newest("app"), lambda: store.read_secret(VaultReference("kv", "respan", "api_key"))):
        with pytest.raises(StoreUnavailable, match="a proxy"):
            look()
    listed = keeping(2, {1: version(), 2: version()}, {1, 2})
    server.answer = lambda asked: page if asked.path.endswith("?version=1") else listed(asked)
    with pytest.raises(StoreUnavailable, match="a proxy"):
        store.history("app")


def test_a_current_version_that_is_listed_and_not_there_is_not_believed(server: Canned, store: MeteredStore) -> None:
    server.answer = keeping(2, {1: version(), 2: version()}, {1})

    with pytest.raises(StoreUnavailable, match="3 times"):
        store.history("app")


def test_a_version_of_another_time_is_not_the_one_that_was_listed(server: Canned, store: MeteredStore) -> None:
    versions = {1: version(), 2: version()}
    listed = keeping(2, versions, {1, 2})
    anew = keeping(
        2, {number: {**facts, "created_time": "2026-03-01T12:30:00Z"} for number, facts in versions.items()}, {1, 2}
    )
    server.answer = lambda asked: anew(asked) if asked.path.endswith("?version=1") else listed(asked)

    assert [found.data for found in store.history("app").versions] == [None, {"n": "2"}]
