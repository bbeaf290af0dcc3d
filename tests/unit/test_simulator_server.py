"""The simulator's journal, and its server: keep-alive, bounded requests, a clean stop."""

import socket
import threading
from datetime import timedelta

import httpx
import pytest
from support.simulated import KEYS, START, vendor

from rotator.simulator import Key


def test_the_journal_holds_every_call_in_order() -> None:
    with vendor() as v:
        created = v.create(name="a")
        v.client.get(KEYS)
        v.client.patch(v.at(created["id"]), json={"name": "b"})
        v.client.get(v.at("unknown"))
        v.client.delete(v.at(created["id"]))
        v.chat(created["api_key"])
        v.client.get(KEYS, headers={"Authorization": "Bearer wrong"})
        calls = [(call.number, call.operation, call.key_id, call.key_name, call.status) for call in v.sim.journal]
        key_id = created["id"]
        assert calls == [
            (1, "create", key_id, "a", 201),
            (2, "list", None, None, 200),
            (3, "update", key_id, "a", 200),
            (4, "retrieve", "unknown", None, 404),
            (5, "delete", key_id, "b", 204),
            (6, "chat", key_id, "b", 401),
            (7, "list", None, None, 401),
        ]
        assert {call.at for call in v.sim.journal} == {START}


def test_no_repr_shows_a_key() -> None:
    key = Key(id="i", text="hunter2", name="n", prefix="p", created_at=START)
    assert "hunter2" not in repr(key)
    assert key.fingerprint() == "f52fbd32b2b3b86f"


def test_connections_are_kept_and_requests_may_be_pipelined() -> None:
    with vendor() as v:
        v.create(name="a")
        request = (
            f"GET {KEYS} HTTP/1.1\r\nHost: h\r\nAuthorization: bearer {v.sim.organisation_key}\r\n\r\n".encode() * 3
        )
        with socket.create_connection(("127.0.0.1", v.port)) as raw:
            raw.sendall(request)
            raw.shutdown(socket.SHUT_WR)
            received = b""
            while chunk := raw.recv(65536):
                received += chunk
        assert received.count(b"HTTP/1.1 200 OK") == 3


def test_every_answer_has_the_servers_date() -> None:
    with vendor() as v:
        for path in (KEYS, "/nowhere", "/_simulator/state"):
            assert v.client.get(path).headers["date"] == "Sun, 01 Mar 2026 12:00:00 GMT"
        v.now += timedelta(hours=1)
        assert v.client.get(KEYS).headers["date"] == "Sun, 01 Mar 2026 13:00:00 GMT"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 20_000 + b"\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000, 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    ],
)
def test_malformed_and_oversized_requests_are_refused(sent: bytes, status: int) -> None:
    with vendor() as v, socket.create_connection(("127.0.0.1", v.port)) as raw:
        raw.sendall(sent)
        assert raw.recv(65536).startswith(f"HTTP/1.1 {status} ".encode())


def test_http_1_0_and_close_end_the_connection() -> None:
    with vendor() as v:
        for request in (b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", v.port)) as raw:
                raw.sendall(request)
                received = b""
                while chunk := raw.recv(65536):
                    received += chunk
                assert received.startswith(b"HTTP/1.1 404 ")


def test_it_stops_with_idle_clients_leaves_no_thread_and_comes_back_where_it_was(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = set(threading.enumerate())
    with vendor() as v:
        v.create(name="a")  # leaves an idle connection
        half = socket.create_connection(("127.0.0.1", v.port))
        half.sendall(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf")
        url = v.sim.url
        waiter = threading.Thread(target=v.sim.serve_forever)
        waiter.start()
        v.sim.stop()
        v.sim.stop()
        waiter.join(5)
        half.close()
        assert set(threading.enumerate()) == before
        with pytest.raises(httpx.TransportError):
            v.client.get(KEYS)
        v.sim.start()
        assert v.sim.url == url
        assert v.client.get(KEYS).json()["results"][0]["name"] == "a"
    assert set(threading.enumerate()) == before
    assert capfd.readouterr().err == ""


def test_many_clients_at_once_lose_nothing() -> None:
    with vendor() as v:

        def work(worker: int) -> None:
            for n in range(25):
                created = v.create(name=f"{worker}-{n}")
                assert v.client.delete(v.at(created["id"])).status_code == 204

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(v.sim.vendor.keys) == 200
        assert all(key.revoked_at for key in v.sim.vendor.keys.values())
        assert [call.number for call in v.sim.journal] == list(range(1, 401))
