"""What a version wrote is kept by those after it: a pass over it changes nothing, and finds nothing odd.

tests/unit/test_upgrade.py has the list of versions.
"""

import json
import re
import tomllib
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import pytest
from support.installation import on_vault
from support.vault import VaultServer

from rotator.core.keys import place_of

WRITTEN = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("by", sorted(path.name for path in WRITTEN.glob("written-by-*")))
def test_a_kept_secret_is_kept(vault: VaultServer, tmp_path: Path, by: str) -> None:
    """As it stands in the file, except for this Vault's, this provider's and today's values."""
    kept = json.loads((WRITTEN / by / "version.json").read_text())
    written = tomllib.loads((WRITTEN / by / "rotator.toml").read_text())
    with on_vault(tmp_path, vault, ()) as (rotator, paths):
        for table in ("owner", "former_owners", "defaults", "targets", "sweep"):
            rotator.config[table] = written[table]
        [path] = [target["path"] for target in written["targets"].values()]
        cluster = vault.request("GET", "sys/health").json()["cluster_id"]
        location = "/".join(["vault", cluster, "", paths.mount, quote(path, safe="")])
        assert re.fullmatch(r"vault/[0-9a-f-]+/team/secret/" + quote(path, safe=""), kept["location"])

        record = dict(pair.split("=", 1) for pair in kept["data"]["rotator"].split(","))
        owner, target, _, version, unique = record["key_name"].split(".")
        name = ".".join((owner, target, place_of(written["owner"], location), version, unique))
        now = datetime.now(UTC).replace(microsecond=0)
        issued, expires = now - timedelta(hours=1), now + timedelta(hours=23)
        key = rotator.simulator.vendor.create({"name": name, "expiry_date": expires.isoformat()})
        text = rotator.simulator.vendor.text_of(key.id)
        record |= {
            "key_id": key.id,
            "key_name": name,
            "issued_at": f"{issued:%Y-%m-%dT%H:%M:%SZ}",
            "expires_at": f"{expires:%Y-%m-%dT%H:%M:%SZ}",
            "key": sha256(text.encode()).hexdigest()[:16],
        }
        data = {**kept["data"], "api_key": text, "rotator": ",".join(f"{k}={v}" for k, v in record.items())}
        for _ in range(kept["number"]):
            paths.put(path, data)

        rotator.run("run", "--once", status=0)
        [status] = rotator.json("status")["targets"]
        assert (status["state"], status["key_id"]) == ("ok", key.id)
        [swept] = rotator.json("sweep")["providers"]
        assert swept["orphans"] == []
        assert paths.read(path) == data
        assert paths.metadata(path)["current_version"] == kept["number"]
        assert rotator.calls("create", "update", "delete") == []
        rotator.run("rotate", "--all", status=0)  # so it would have been allowed to
        assert (paths.read(path) or {})["note"] == "another team's"
