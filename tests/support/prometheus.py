"""A real Prometheus, and what many tests ask of one: the value of a query, and which alerts fire.

Debian's package `prometheus` brings both programs, the server and promtool.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from support.leaks import RECORDER
from support.process import GO, Process, free_ports, wait_until

NO_PROMETHEUS = "no Prometheus: install Debian's package `prometheus`, or put prometheus and promtool on PATH"
DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yaml"
DASHBOARD = DEPLOY / "grafana" / "rotator.json"


def is_installed() -> bool:
    """Whether both programs are on PATH."""
    return bool(shutil.which("prometheus") and shutil.which("promtool"))


def promtool(*arguments: str, stdin: str = "", folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The result of promtool."""
    command, environment = [shutil.which("promtool") or "promtool", *arguments], {**os.environ, **GO}
    return subprocess.run(
        command, env=environment, input=stdin, capture_output=True, text=True, timeout=220, check=False, cwd=folder
    )


def dashboard_variables() -> dict[str, str]:
    """Return the query of each variable of the dashboard."""
    variables = json.loads(DASHBOARD.read_text())["templating"]["list"]
    return {one["name"]: one["definition"] for one in variables if one["type"] == "query"}


def dashboard_panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard, those of collapsed rows after their row."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [one for panel in panels for one in (panel, *panel.get("panels", []))]


class Prometheus:
    """A server that scrapes `targets` (host:port, by job) each second; made by `prometheus`."""

    def __init__(self, folder: Path, targets: dict[str, Sequence[str]], rules: str) -> None:
        [port] = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        (folder / "rules.yaml").write_text(rules)
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(hosts)}]} for job, hosts in targets.items()
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))  # which YAML is, too
        self._folder = folder
        self._client = httpx.Client(base_url=self.url, timeout=10, trust_env=False)
        self._process = Process(
            [
                shutil.which("prometheus") or "prometheus",
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            folder,
        )

    def __enter__(self) -> Self:
        self._process.start(lambda: self._client.get("/-/ready").is_success)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()
        self._client.close()
        RECORDER.record("prometheus", (self._folder / "output.log").read_text())

    def _data(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        assert answer.is_success, (parameters, answer.text)
        RECORDER.record(f"prometheus {path}", answer.text)
        return answer.json()["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the series of an instant vector, or the value of a scalar. A wrong query is an AssertionError."""
        data = self._data("query", query=expression)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(one["metric"], float(one["value"][1])) for one in data["result"]]

    def label_values(self, label: str, series: str) -> list[str]:
        """Return what `label_values(series, label)` does in Grafana."""
        answer: list[str] = self._data(f"label/{label}/values", **{"match[]": series})
        return answer

    def firing(self) -> dict[str, list[dict[str, Any]]]:
        """Return the alerts that fire, by name, each with `labels` and `annotations`."""
        found: dict[str, list[dict[str, Any]]] = {}
        for alert in self._data("alerts")["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert)
        return found

    def wait_for(self, *names: str, seconds: float = 30) -> None:
        """Wait until all of these have fired, even one after the other."""
        awaited = set(names)

        def all_fired() -> bool:
            awaited.difference_update(self.firing())
            return not awaited

        try:
            wait_until(all_fired, f"{', '.join(sorted(names))} to fire", seconds)
        except TimeoutError as error:
            error.add_note(f"not seen: {sorted(awaited)}; firing: {sorted(self.firing())}")
            raise

    def wait_for_end(self, *names: str, seconds: float = 30) -> None:
        """Wait until none of these fires."""
        wait_until(lambda: not set(names) & set(self.firing()), f"{', '.join(sorted(names))} to clear", seconds)


def impatient(rules: str, seconds: int) -> str:
    """Return the same rules with alerts that fire once their expression has held for `seconds`."""
    return re.sub(r"(?m)^( +for: )\S+$", rf"\g<1>{seconds}s", rules)


@contextmanager
def prometheus(targets: dict[str, Sequence[str]], rules: str) -> Iterator[Prometheus]:
    """Yield a server of our own, new and empty, which stops with this context."""
    with tempfile.TemporaryDirectory(prefix="prometheus-") as folder, Prometheus(Path(folder), targets, rules) as it:
        yield it
