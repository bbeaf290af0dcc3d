"""One webhook: what is posted, with which signatures, and what comes of each way in which a receiver may answer."""

import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
from standardwebhooks import WebhookVerificationError
from support.egress import tls_front
from support.receiver import FORMER, SECRET, Receiver, never_reading, receiving

from rotator.core.errors import NotificationFailed, NotificationRefused, NotificationUnwanted
from rotator.core.secrets import Secret
from rotator.notify import webhooks
from rotator.notify.notification import notification
from rotator.notify.webhooks import WebhookSender
from rotator.runtime.clock import SystemClock
from rotator.runtime.http import HttpClient

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PUBLISHED = notification("key.published", AT, "prod-eu", "billing", {"key_id": "k1", "version": 7}, "k1", 7)

Make = Callable[..., WebhookSender]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def made() -> Iterator[Make]:
    """Return a sender to a URL, with these secrets."""
    clock = SystemClock()
    clients: list[HttpClient] = []

    def make(url: str, *secrets: str, ca_file: Path | None = None) -> WebhookSender:
        clients.append(HttpClient(clock, timeout=15, ca_file=ca_file))
        held = [partial(Secret, secret) for secret in secrets or (SECRET,)]
        return WebhookSender("chat", url, ("key.published",), held, clients[-1], clock)

    yield make
    for client in clients:
        client.close()


# --- what is sent ----------------------------------------------------------------------------------------------------


def test_a_receiver_verifies_the_signature_with_the_library(receiver: Receiver, made: Make) -> None:
    made(receiver.url).send(PUBLISHED)
    [delivery] = receiver.deliveries
    assert delivery.verified() == {
        "type": "key.published",
        "timestamp": "2026-03-01T12:00:00Z",
        "data": {"owner": "prod-eu", "target": "billing", "key_id": "k1", "version": 7},
    }
    assert delivery.headers["content-type"] == "application/json"
    assert delivery.path == "/hooks/", "and the slash at its end stays"


def test_another_secret_or_another_body_does_not_verify(receiver: Receiver, made: Make) -> None:
    made(receiver.url).send(PUBLISHED)
    [delivery] = receiver.deliveries
    with pytest.raises(WebhookVerificationError):
        delivery.verified(FORMER)
    changed = dataclasses.replace(delivery, body=delivery.body.replace(b"billing", b"payment"))
    with pytest.raises(WebhookVerificationError):
        changed.verified()


def test_two_secrets_sign_and_a_receiver_may_know_either(receiver: Receiver, made: Make) -> None:
    made(receiver.url, SECRET, FORMER).send(PUBLISHED)
    [delivery] = receiver.deliveries
    assert delivery.verified(SECRET) == delivery.verified(FORMER)
    assert len(delivery.headers["webhook-signature"].split(" ")) == 2


def test_the_id_follows_from_what_happened() -> None:
    def about(*identity: object, kind: str = "key.published", owner: str = "prod-eu", target: str = "a") -> str:
        return notification(kind, datetime.now(UTC), owner, target, {"any": 1}, *identity).id

    assert about("k1", 7) == about("k1", 7), "whenever it is sent, and whatever else it holds"
    others = {about("k1", 7), about("k1", 8), about("k2", 7), about("k1", 7, kind="key.ending")}
    assert len(others | {about("k1", 7, owner="prod"), about("k1", 7, target="b")}) == 6


@pytest.mark.parametrize(
    "secret",
    [
        "whsec_",
        "short",
        "whsec_not base64 at all!",
        "whsec_with-url-safe_letters",
        "ключ" * 9,
        f"{SECRET}A",  # of such a length no Base64 is
    ],
)
def test_a_secret_that_is_not_base64_is_refused_unsent(receiver: Receiver, made: Make, secret: str) -> None:
    with pytest.raises(NotificationRefused, match=r"the secret of notify\.webhooks\.chat is not Base64") as refused:
        made(receiver.url, secret).send(PUBLISHED)
    assert secret.removeprefix("whsec_") not in str(refused.value) or secret == "whsec_"
    assert receiver.deliveries == []


def test_a_secret_needs_neither_the_prefix_nor_padding(receiver: Receiver, made: Make) -> None:
    bare = SECRET.removeprefix("whsec_").rstrip("=")
    made(receiver.url, bare).send(PUBLISHED)
    assert receiver.deliveries[0].verified(SECRET)


def test_the_documented_receiver_takes_each_id_once_and_refuses_another_secret(receiver: Receiver, made: Make) -> None:
    document = (Path(__file__).parents[2] / "docs/consumers.md").read_text()
    [snippet] = re.findall(r"(?ms)^```python\n(from standardwebhooks.*?)^```$", document)
    read_again: list[str] = []
    names: dict[str, Any] = {"os": SimpleNamespace(environ={"WEBHOOK_SECRET": SECRET}), "handled": set()}
    names["read_again"] = read_again.append
    exec(snippet, names)
    for secret in (SECRET, SECRET, FORMER):
        made(receiver.url, secret).send(PUBLISHED)
    answers = [names["receive"](delivery.body, delivery.headers) for delivery in receiver.deliveries]
    assert (answers, read_again) == ([204, 204, 401], ["billing"])


# --- what comes of it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_is_a_success(receiver: Receiver, made: Make, status: int) -> None:
    receiver.status = status
    made(receiver.url).send(PUBLISHED)


def test_a_success_with_an_endless_answer_is_one(receiver: Receiver, made: Make) -> None:
    receiver.status, receiver.answer = 200, b"x" * 2**21
    made(receiver.url).send(PUBLISHED)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, NotificationRefused),
        (401, NotificationRefused),
        (404, NotificationRefused),
        (408, NotificationFailed),
        (410, NotificationUnwanted),
        (429, NotificationFailed),
        (500, NotificationFailed),
        (503, NotificationFailed),
    ],
)
def test_what_each_status_means(receiver: Receiver, made: Make, status: int, kind: type[NotificationFailed]) -> None:
    receiver.status = status
    with pytest.raises(NotificationFailed, match=f"answered {status} to notify.webhooks.chat") as failed:
        made(receiver.url).send(PUBLISHED)
    assert type(failed.value) is kind


def test_a_redirect_is_not_followed(receiver: Receiver, made: Make) -> None:
    with receiving() as elsewhere:
        receiver.status, receiver.location = 307, elsewhere.url
        with pytest.raises(NotificationRefused, match="answered 307") as refused:
            made(receiver.url).send(PUBLISHED)
        assert elsewhere.deliveries == []
    assert "follows no redirect" in refused.value.advice


def test_a_dropped_connection_and_a_closed_port_fail(receiver: Receiver, made: Make) -> None:
    receiver.drops = True
    with pytest.raises(NotificationFailed, match=r"does not answer notify\.webhooks\.chat"):
        made(receiver.url).send(PUBLISHED)
    with pytest.raises(NotificationFailed, match="does not answer"):
        made("http://127.0.0.1:1/").send(PUBLISHED)


def test_a_receiver_that_is_slow_or_never_reads_has_a_bound(
    receiver: Receiver, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT", 0.3)
    receiver.seconds = 30
    with never_reading() as never:
        for url in (receiver.url, never):
            began = time.monotonic()
            with pytest.raises(NotificationFailed, match="no answer in time"):
                made(url).send(PUBLISHED)
            assert time.monotonic() - began < 5


def test_a_certificate_that_nothing_vouches_for_is_refused_until_ca_file_names_its_authority(
    receiver: Receiver, made: Make, tmp_path: Path
) -> None:
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    server = receiver.url.removesuffix("/hooks/")
    with tls_front(server, authority) as front, tls_front(server, authority, "another.test") as misnamed:
        for url in (front, misnamed):
            with pytest.raises(NotificationFailed, match="certificate") as failed:
                made(f"{url}/hooks/").send(PUBLISHED)
            assert "ca_file" in failed.value.advice
        with pytest.raises(NotificationFailed, match="certificate"):
            made(f"{misnamed}/hooks/", ca_file=ca_file).send(PUBLISHED)
        assert receiver.deliveries == []
        made(f"{front}/hooks/", ca_file=ca_file).send(PUBLISHED)
    assert len(receiver.deliveries) == 1


def test_no_message_shows_the_path_of_a_url_which_may_be_a_credential(receiver: Receiver, made: Make) -> None:
    url = receiver.url + "T0001/B0002/XXXXcredentialXXXX"
    for receiver.status, receiver.drops in ((500, False), (410, False), (302, False), (200, True)):
        with pytest.raises(NotificationFailed) as failed:
            made(url).send(PUBLISHED)
        shown = f"{failed.value.message} {failed.value.advice}"
        assert "B0002" not in shown
        assert urlsplit(url).netloc in shown


def test_the_body_is_json_whatever_an_error_holds() -> None:
    odd = notification("target.failing", AT, "o", "t", {"error": 'a "quote"\nand ключ'}, 1)
    assert json.loads(odd.body())["data"]["error"] == 'a "quote"\nand ключ'
