"""The status page of a running daemon: well, failing, foreign and hostile targets, and the headers for a browser."""

import re
from contextlib import closing
from pathlib import Path

import httpx
from rich.text import Text
from support.canned import Reply, canned
from support.installation import Daemon, Installation, installation
from support.pages import Element, read_page, rows

from rotator.web.page import POLICY


def get(daemon: Daemon, query: str = "") -> Element:
    return read_page(daemon.get(f"/{query}", admin=True).text)


def test_the_page_of_a_running_daemon(fleet: tuple[Installation, Daemon]) -> None:
    rotator, daemon = fleet
    answer = daemon.get("/", admin=True)
    page = read_page(answer.text)

    # What it shows.
    shown = rows(page)
    assert {name: row["State"].split()[0] for name, row in shown.items()} == {
        "hostile": "failing",
        "foreign": "foreign",
        "failing": "failing",
        "fresh": "ok",
        "rotated": "ok",
    }
    keys = {target["name"]: target for target in daemon.get("/status.json", admin=True).json()["targets"]}
    assert shown["fresh"]["Served key"].startswith(keys["fresh"]["key_id"])
    assert "rotate (expiring) in" in shown["fresh"]["Next"]
    [old] = keys["rotated"]["superseded"]
    almost_ten = "in (9|10) min"  # rounded; the grace has just begun
    assert re.match(f"{old['key_id']} expires {almost_ten}", shown["rotated"]["Superseded keys"])
    assert re.match(rf"remove {old['key_id']} \(grace-over\) {almost_ten}", shown["rotated"]["Next"])
    assert "now: rotate (" in shown["failing"]["Next"]
    assert "Failed: " in shown["failing"]["Next"]
    assert "rotator rotate foreign --adopt" in shown["foreign"]["Next"]
    summary = page.one("dl").text
    assert "Leader this replica there is no Lease" in summary
    assert re.search(r"respan \d+% used", summary)
    events = page.one("section", id="events").text
    assert "target_failed failing" in events
    assert "started" in events
    assert page.one("title").text == "3 unhealthy · prod-eu · rotator"

    # Foreign text is plain text, without tricks and secrets.
    assert "&lt;script&gt;" in answer.text
    assert "<script" not in answer.text
    assert "\u202e" not in answer.text
    assert "\\u202egnp.exe" in answer.text
    assert "tk<b>" in shown["hostile"]["Served key"]
    for key in rotator.simulator.vendor.keys.values():
        assert key.text not in answer.text
    assert rotator.simulator.organisation_key not in answer.text

    # The headers for a browser.
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers.get_list("content-security-policy") == [POLICY]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"

    # The filter, and what makes no sense.
    assert list(rows(get(daemon, "?q=FRESH"))) == ["fresh"]
    assert list(rows(get(daemon, f"?q={old['key_id']}&state=ok"))) == ["rotated"]
    assert rows(get(daemon, "?state=due")) == {}
    for query in ("?state=%3Cscript%3E&page=-7&refresh=maybe&" + "x=y&" * 40, "?page=99999", "?%00=%ff&q=%00"):
        assert len(rows(get(daemon, query))) in (5, 0)
    assert "<script>" not in daemon.get("/?q=%3Cscript%3E", admin=True).text

    # A HEAD, other methods, another name for this host, and the open port.
    with closing(httpx.Client(base_url=daemon.url(admin=True), trust_env=False)) as client:
        head = client.head("/")
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 1000
        assert client.post("/", content=b"q=a").status_code == 405
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
        assert client.post("/look", headers={"Origin": "http://evil.example"}).status_code == 403
        assert client.post("/look").status_code == 202
    assert daemon.get("/").status_code == 404


def test_status_asks_a_daemon_and_shows_its_status(fleet: tuple[Installation, Daemon]) -> None:
    rotator, daemon = fleet
    url = daemon.url(admin=True)
    seen = Text.from_ansi(rotator.at_a_terminal("status", "--url", url)).plain.splitlines()
    firsts = [line.split()[0] for line in seen if line.split()]
    assert firsts.index("foreign") < firsts.index("failing") < firsts.index("fresh")
    assert any("this replica is the leader" in line for line in seen)
    assert any("error: foreign: target foreign" in line for line in seen)
    assert "\u202e" not in "".join(seen)

    piped = rotator.run("status", "--url", url, status=4).stdout.splitlines()
    assert [line.split("\t")[1] for line in piped] == ["foreign", "failing", "failing", "ok", "ok"]
    shown = rotator.json("status", "--url", url, status=4)
    assert [target["name"] for target in shown["targets"]] == sorted(target["name"] for target in shown["targets"])
    assert set(shown) == {"owner", "at", "targets", "daemon", "events"}
    assert {event["event"] for event in shown["events"]} >= {"started", "target_failed", "target_foreign"}
    assert set(rotator.json("status", status=4)) == {"owner", "at", "targets"}


def test_status_refuses_an_answer_that_is_no_daemon_s(tmp_path: Path) -> None:
    answers = iter([Reply(200, {"hello": 1}), Reply(200, [1]), Reply(200, "<html>"), Reply(404, {})])
    with canned(lambda _: next(answers)) as other, installation(tmp_path) as rotator:
        for wanted in ("is not rotator", "is not rotator", "is not rotator", "the port of the metrics?"):
            errors = rotator.run("status", "--url", other.address, status=3).stderr
            assert wanted in errors
            assert "[http].admin" in errors
