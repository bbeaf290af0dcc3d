"""How the API server is found, and what is known of the other replicas, against one in memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.canned import Asked, Canned, Reply, canned
from support.world import FakeClock

from rotator.core.errors import KubernetesRefused, KubernetesUnavailable, LeaseUnusable
from rotator.daemon.replicas import RIGHTS, Replicas
from rotator.runtime.kubernetes import Access, ApiServer, Right, access_in_a_pod
from rotator.telemetry.status import Replica

NOTHING: dict[str, Any] = dict.fromkeys(("namespace", "api_server", "token_file", "ca_file"))
SLICES = "/apis/discovery.k8s.io/v1/namespaces/keys/endpointslices?labelSelector=kubernetes.io/service-name=rotator"


@pytest.fixture
def server() -> Iterator[Canned]:
    with canned(lambda _: Reply(500)) as server:
        yield server


@pytest.fixture
def access(server: Canned, tmp_path: Path) -> Access:
    token = tmp_path / "token"
    token.write_text("a-service-accounts-token\n")
    return Access(server.address, "keys", token, Path("unused"))


# --- which, and as whom ----------------------------------------------------------------------------------------------


def test_what_is_left_out_is_the_pods_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "namespace").write_text("keys\n")
    monkeypatch.setattr("rotator.runtime.kubernetes.SERVICE_ACCOUNT", tmp_path)
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    found = access_in_a_pod(pod, **NOTHING)
    assert found == Access("https://10.0.0.1:443", "keys", tmp_path / "token", tmp_path / "ca.crt")
    found = access_in_a_pod(pod | {"KUBERNETES_SERVICE_HOST": "fd00::1"}, **NOTHING)
    assert found.api_server == "https://[fd00::1]:443"


@pytest.mark.parametrize(("said", "missing"), [({}, "api_server"), ({"api_server": "https://k"}, "namespace")])
def test_outside_of_a_pod_it_is_told_what_is_missing(
    said: dict[str, str], missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rotator.runtime.kubernetes.SERVICE_ACCOUNT", tmp_path)
    with pytest.raises(LeaseUnusable, match=rf"\[lease\]\.{missing} is not said"):
        access_in_a_pod({}, **{**NOTHING, **said})


# --- which rights there are ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "allowed"),
    [
        (Reply(201, {"status": {"allowed": True}}), True),
        (Reply(201, {"status": {"allowed": False}}), False),
        (Reply(201, {"status": {"allowed": "true"}}), False),
    ],
)
def test_a_right_is_there_if_the_server_says_so(server: Canned, access: Access, reply: Reply, allowed: bool) -> None:
    server.answer = lambda _: reply
    asking = ApiServer(access, FakeClock(), "a review", "", 5.0)
    asking.begin()
    assert asking.allows(Right("get", "coordination.k8s.io", "leases", "rotator")) is allowed


@pytest.mark.parametrize("reply", [Reply(500), Reply(201, "<html>"), Reply(201, {}), Reply(201, [])])
def test_no_answer_about_a_right_is_none(server: Canned, access: Access, reply: Reply) -> None:
    server.answer = lambda _: reply
    asking = ApiServer(access, FakeClock(), "a review", "", 5.0)
    asking.begin()
    with pytest.raises(KubernetesUnavailable, match=f"answered {reply.status} about a review"):
        asking.allows(Right("get", "coordination.k8s.io", "leases", "rotator"))


# --- the other replicas ----------------------------------------------------------------------------------------------


def endpoint(name: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": ["10.1.0.7"], "targetRef": {"kind": "Pod", "name": name}, "conditions": conditions}


def looked(server: Canned, access: Access, *slices: object) -> Replicas:
    server.answer = lambda _: Reply(200, {"items": list(slices)})
    replicas = Replicas(access, "rotator", FakeClock())
    replicas.look()
    return replicas


def test_the_pods_behind_the_service_are_seen(server: Canned, access: Access) -> None:
    slices = (
        {"endpoints": [endpoint("rotator-b", ready=True), endpoint("rotator-a", ready=False, terminating=True)]},
        {"endpoints": [endpoint("rotator-c", ready=False), endpoint("rotator-d")]},
    )
    replicas = looked(server, access, *slices)
    assert replicas.error is None
    assert replicas.seen == (
        Replica("rotator-a", ready=False, ending=True),
        Replica("rotator-b", ready=True, ending=False),
        Replica("rotator-c", ready=False, ending=False),
        Replica("rotator-d", ready=True, ending=False),
    )
    assert [replica.stands_by() for replica in replicas.seen] == [
        "rotator-a is ending",
        "rotator-b stands by",
        "rotator-c is not ready",
        "rotator-d stands by",
    ]
    assert server.paths("GET") == [SLICES]


def test_a_pod_with_addresses_of_two_kinds_is_one(server: Canned, access: Access) -> None:
    both = {"endpoints": [endpoint("rotator-a", ready=True)]}
    assert looked(server, access, both, both).seen == (Replica("rotator-a", ready=True, ending=False),)


def test_a_slice_may_be_empty_and_an_endpoint_no_pod(server: Canned, access: Access) -> None:
    assert looked(server, access, {"endpoints": None}).seen == ()
    assert looked(server, access, {"endpoints": [{"addresses": ["10.1.0.7"]}]}).seen == (
        Replica("10.1.0.7", ready=True, ending=False),
    )


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (Reply(403, {}), KubernetesRefused, "refuses to GET the replicas behind the Service keys/rotator (403)"),
        (Reply(503), KubernetesUnavailable, "answered 503 about the replicas behind the Service keys/rotator"),
        (Reply(200, {"items": [{}]}), KubernetesUnavailable, "answered 200 about the replicas"),
        (Reply(200, {"items": [{"endpoints": [7]}]}), KubernetesUnavailable, "answered 200 about the replicas"),
        (Reply(200, []), KubernetesUnavailable, "answered 200 about the replicas"),
    ],
)
def test_where_nobody_tells_it_is_said_why_and_what_was_seen_stays(
    server: Canned, access: Access, reply: Reply, kind: type[Exception], words: str
) -> None:
    replicas = looked(server, access, {"endpoints": [endpoint("rotator-a", ready=True)]})
    seen = replicas.seen
    server.answer = lambda _: reply
    replicas.look()
    assert replicas.seen == seen
    assert type(replicas.error) is kind
    assert words in str(replicas.error)
    if kind is KubernetesRefused:
        assert replicas.error.advice == RIGHTS
    server.answer = lambda _: Reply(200, {"items": []})
    replicas.look()
    assert not replicas.seen
    assert not replicas.error


def test_a_look_ends_in_time(server: Canned, access: Access) -> None:
    clock = FakeClock()

    def answer(_: Asked) -> Reply:
        clock.sleep(6)
        return Reply(200, {"items": []}, drips=True)

    server.answer = answer
    replicas = Replicas(access, "rotator", clock)
    replicas.look()
    assert "does not answer about the replicas" in str(replicas.error)
