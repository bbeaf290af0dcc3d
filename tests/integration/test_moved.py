"""A mount that `vault secrets move` has moved, with a real Vault: what is reported, and what repairs it."""

from pathlib import Path

from support.installation import VaultPaths, on_vault
from support.process import wait_until
from support.vault import VaultServer

from rotator.core.times import timestamp


def moved(vault: VaultServer, paths: VaultPaths) -> VaultPaths:
    """Move a mount as `vault secrets move` does."""
    after = VaultPaths(vault, f"{paths.mount}-moved")
    body = {"from": paths.mount, "to": after.mount}
    started = vault.request("POST", "sys/remount", body).raise_for_status().json()["data"]["migration_id"]

    def is_done() -> bool:
        answer = vault.request("GET", f"sys/remount/status/{started}").json()
        return bool(answer["data"]["migration_info"]["status"] == "success")

    wait_until(is_done, "the mount is moved")
    return after


def test_the_grace_of_a_key_from_before_a_move_is_enforced_once_the_former_mount_is_named(
    vault: VaultServer, tmp_path: Path
) -> None:
    with on_vault(tmp_path, vault) as (rotator, paths):
        rotator.config["defaults"]["grace_period"] = "15m"
        rotator.run("run", "--once", status=0)
        [first] = rotator.json("status")["targets"]
        after = moved(vault, paths)
        rotator.environment["VAULT_TOKEN"] = after.token()
        rotator.config["stores"]["store"]["mount"] = after.mount

        assert "is not enforced" in rotator.run("rotate", "a", status=1).stdout
        extended = rotator.run("extend", "--all", "--for", "30h", status=0).stdout
        assert first["key_id"] not in extended
        shown = rotator.json("status", status=4)["targets"][0]
        [superseded] = shown["superseded"]
        assert (shown["state"], superseded["key_id"], superseded["until"]) == (
            "failing",
            first["key_id"],
            first["expires_at"],
        )

        rotator.config["stores"]["store"]["former_locations"] = [{"mount": paths.mount}]
        rotator.run("run", "--once", status=0)
        shown = rotator.json("status")["targets"][0]
        assert shown["state"] == "ok"
        assert shown["superseded"][0]["until"] < first["expires_at"]
        ends = rotator.simulator.vendor.keys[first["key_id"]].expiry_date
        assert ends is not None
        assert timestamp(ends) == shown["superseded"][0]["until"]
