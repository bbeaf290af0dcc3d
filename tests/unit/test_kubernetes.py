"""How the API server is found, and what its answers amount to, against one in memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.canned import Asked, Canned, Reply, canned
from support.clocks import FakeClock

from rotator.core.errors import KubernetesRefused, KubernetesUnavailable, LeaseUnusable, RotatorError
from rotator.runtime.kubernetes import Access, ApiServer, Right, access_in_a_pod

NOTHING: dict[str, Any] = dict.fromkeys(("namespace", "api_server", "token_file", "ca_file"))


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


@pytest.mark.parametrize(("options", "missing"), [({}, "api_server"), ({"api_server": "https://k"}, "namespace")])
def test_outside_a_pod_the_error_names_what_is_missing(
    options: dict[str, str], missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rotator.runtime.kubernetes.SERVICE_ACCOUNT", tmp_path)
    with pytest.raises(LeaseUnusable, match=rf"\[lease\]\.{missing} is not set"):
        access_in_a_pod({}, **{**NOTHING, **options})


# --- which rights there are ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "allowed"),
    [
        (Reply(201, {"status": {"allowed": True}}), True),
        (Reply(201, {"status": {"allowed": False}}), False),
        (Reply(201, {"status": {"allowed": "true"}}), False),
    ],
)
def test_a_right_is_granted_if_the_server_allows_it(
    server: Canned, access: Access, reply: Reply, allowed: bool
) -> None:
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


# --- what an answer amounts to ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (Reply(403, {}), KubernetesRefused, "refuses to GET the lease (403)"),
        (Reply(422, {"message": "Too\nlong"}), KubernetesUnavailable, "answered 422 about the lease (Too long)"),
        (Reply(422, {"message": 7}), KubernetesUnavailable, "answered 422 about the lease"),
        (Reply(503), KubernetesUnavailable, "answered 503 about the lease"),
        (Reply(200, {}), KubernetesUnavailable, "answered 200 about the lease"),
        (Reply(200, {"spec": 7}), KubernetesUnavailable, "answered 200 about the lease"),
        (Reply(200, []), KubernetesUnavailable, "answered 200 about the lease"),
    ],
)
def test_an_answer_that_is_none_names_what_was_asked(
    server: Canned, access: Access, reply: Reply, kind: type[RotatorError], words: str
) -> None:
    server.answer = lambda _: reply
    asking = ApiServer(access, FakeClock(), "the lease", "Grant get.", 5.0)
    asking.begin()
    with pytest.raises(kind) as raised:
        asking.ask("GET", "leases/rotator", None, lambda answer: answer["spec"]["holder"])
    assert type(raised.value) is kind
    assert words in str(raised.value)
    if kind is KubernetesRefused:
        assert raised.value.advice == "Grant get."


def test_a_request_ends_in_time(server: Canned, access: Access) -> None:
    clock = FakeClock()

    def answer(_: Asked) -> Reply:
        clock.sleep(6)
        return Reply(200, {}, drips=True)

    server.answer = answer
    asking = ApiServer(access, clock, "the lease", "", 5.0)
    asking.begin()
    with pytest.raises(KubernetesUnavailable, match="does not answer about the lease"):
        asking.ask("GET", "leases/rotator", None, lambda answer: answer)
