"""Windows and a chat, set up as a new user does it: from the blocks of the documentation, a simulator and SQLite."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.canned import Asked, Reply, canned
from support.installation import Installation, installation
from support.process import free_ports, wait_until
from support.receiver import FORMER, SECRET

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", (DOCS / page).read_text())


WINDOWS = [block for block in blocks("windows.md", "toml") if "windows" in block]
[CHAT] = [block for block in blocks("consumers.md", "toml") if "webhooks" in block]
[RECEIVER] = [block for block in blocks("consumers.md", "python") if "CHAT_URL" in block]


@pytest.fixture
def rotator(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path) as rotator:
        yield rotator


@contextmanager
def forwarding(folder: Path, port: int, chat: str, secret: str = SECRET) -> Iterator[None]:
    """Run the documented receiver on this port."""
    program = folder / "chat.py"
    program.write_text(RECEIVER.replace("8099", str(port)))
    environment = {"PATH": os.environ["PATH"], "WEBHOOK_SECRET": secret, "CHAT_URL": chat}
    with (folder / "chat.out").open("wb") as output:
        running = subprocess.Popen([sys.executable, program], env=environment, stdout=output, stderr=output)
    try:
        yield
    finally:
        running.kill()
        running.wait()


def written(rotator: Installation, windows: str, url: str) -> str:
    """Write what is in the documentation, with the simulator, a SQLite file and free ports. Return its option."""
    (rotator.folder / "webhook").write_text(f"{SECRET}\n")
    chat = CHAT.replace("https://hooks.example/rotator", url).replace("/run/secrets/webhook", "webhook")
    text = f"""
owner = "trial"

[providers.respan]
type = "respan"
base_url = "{rotator.simulator.url}"
api_key = {{ env = "RESPAN_API_KEY" }}

[stores.store]
type = "sqlite"
file = "store.db"

[http]
listen = "127.0.0.1:0"
admin = "127.0.0.1:0"

{windows}
{chat}
[targets.billing-api]
path = "apps/billing/respan"
"""
    file = rotator.folder / "rotator.toml"
    file.write_text(text)
    return f"--config={file}"


@pytest.mark.parametrize("windows", WINDOWS, ids=["working hours", "weekly freeze"])
def test_windows_and_a_chat_are_set_up_from_the_documentation(rotator: Installation, windows: str) -> None:
    [port] = free_ports(1)
    messages: list[str] = []

    def post(asked: Asked) -> Reply:
        messages.append(str(json.loads(asked.body)["text"]))
        return Reply(200)

    with canned(post) as chat, forwarding(rotator.folder, port, chat.address):
        config = written(rotator, windows, f"http://127.0.0.1:{port}/")
        assert "nothing wrong" in rotator.run("check", config, status=0).stdout
        wait_until(lambda: rotator.run("check", "--online", config).returncode == 0, "the receiver to answer")
        assert [text.split()[0] for text in messages] == ["test"]
        daemon = rotator.start(config)
        daemon.wait_for("key_published")
        wait_until(lambda: len(messages) == 2, "the message")
        assert messages[1].split() == ["key.published", "billing-api", "(trial)"]
        assert re.search(r" \((Europe/London|America/New_York)\)$", rotator.run("plan", config, status=0).stdout)
        assert daemon.stop() == 0


def test_the_documented_receiver_refuses_another_secret_and_loses_no_message(rotator: Installation) -> None:
    [port] = free_ports(1)
    messages: list[str] = []

    def post(asked: Asked) -> Reply:
        messages.append(str(json.loads(asked.body)["text"]))
        return Reply(503 if len(messages) == 1 else 200)

    with canned(post) as chat:
        config = written(rotator, WINDOWS[0], f"http://127.0.0.1:{port}/")
        with forwarding(rotator.folder, port, chat.address, FORMER):
            wait_until(lambda: "401" in rotator.run("check", "--online", config).stdout, "the refusal")
        assert messages == []
        with forwarding(rotator.folder, port, chat.address):
            daemon = rotator.start(config)
            daemon.wait_for("notifications_recovered")
            assert [text.split()[0] for text in messages] == ["key.published"] * 2, "one of them the chat did not take"
            assert daemon.stop() == 0
