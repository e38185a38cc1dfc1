# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``vmforge-backup`` with a real machine: what it prints, and what it ends with."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.bed.ansible import ROOT, SYSTEM_PATH, found_cores
from tests.bed.mariadb import MariaDB
from tests.bed.panel import PACK_SHAPE, PANEL, WEB
from tests.integration.engine.shelf import Shelf
from tests.integration.roles.conftest import Hypervisor, Storage

MODULE = "ansible_collections.vmforge.backup.plugins.plugin_utils._command"


class Installed:
    """What the role ``schedule`` would have installed, made of the checkout."""

    def __init__(self, home: Path, hypervisor: Hypervisor, variables: dict[str, Any]) -> None:
        core = found_cores()[-1]
        home.mkdir()
        (home / "venv").symlink_to(core.bin.parent)
        (home / "collections").symlink_to(ROOT / ".collections")
        (home / "ansible.cfg").write_text(
            "[defaults]\nlocalhost_warning = false\n[inventory]\ninventory_unparsed_warning = false\n"
        )
        (home / "variables.json").write_text(json.dumps({**variables, "vmforge_backup_env_path": ""}))
        self._hypervisor = hypervisor
        self._program = [str(core.bin / "python"), "-B", "-m", MODULE]
        self._env = {
            "HOME": str(home),
            "PATH": SYSTEM_PATH,
            "PYTHONPATH": str(home / "collections"),
            "VMFORGE_BACKUP_HOME": str(home),
            "VMFORGE_BACKUP_ARGUMENTS": json.dumps(["-e", f"@{home}/variables.json"]),
            **core.env,
        }

    def __call__(self, *words: str) -> tuple[int, str, str]:
        """Its code, and what it wrote to each stream."""
        done = subprocess.run(
            self._hypervisor.libvirt.argv([*self._program, *words]),
            env=self._env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=1800,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr


def test_a_backup_is_made_listed_and_deleted(hypervisor: Hypervisor, storage: Storage, tmp_path: Path) -> None:
    name = hypervisor.db.name
    command = Installed(tmp_path / "home", hypervisor, storage.variables)
    code, said, told = command("run", name)
    assert (code, told) == (0, ""), said + told
    lines = said.splitlines()
    assert (lines[0], lines[2].split()[:3], lines[3].split()[:3:2]) == (
        "Backups",
        ["VM", "NODE", "RESULT"],
        [name, "created"],
    )
    code, said, told = command("list", name, "--json")
    assert code == 0, told
    [row] = json.loads(said)["rows"]
    assert storage.manifests()[0]["id"] == row["id"]
    code, said, told = command("delete", name, row["id"])
    assert code == 0, said + told
    assert storage.manifests() == []
    code, said, told = command("run", name, "--", "-e", "vmforge_backup_dir=/nonexistent")
    assert code == 3
    assert "/nonexistent does not exist" in said
    assert "Traceback" not in said + told


@pytest.mark.exhaustive
def test_what_is_not_there_is_not_deleted(hypervisor: Hypervisor, storage: Storage, tmp_path: Path) -> None:
    shelf = Shelf(storage.backups, vm=hypervisor.db.uuid, name=hypervisor.db.name)
    [made] = shelf.days(1)
    command = Installed(tmp_path / "home", hypervisor, storage.variables)
    assert command("delete", "no such; one", made)[0] == 2
    assert shelf.ids() == [made]


@pytest.mark.exhaustive
def test_a_backup_is_held_verified_restored_and_outlives_a_prune(
    hypervisor: Hypervisor, storage: Storage, tmp_path: Path
) -> None:
    name, copy = hypervisor.db.name, f"{hypervisor.db.name}-again"
    variables = {**storage.variables, "vmforge_backup_restore_state_dir": str(storage.place / "state")}
    command = Installed(tmp_path / "home", hypervisor, variables)
    try:
        for words, heading in (
            (("run", name), "Backups"),
            (("hold", name, "latest", "--reason", "audit"), "Backups"),
            (("verify", name), "Backups"),
            (("restore", name, "--to", copy, "--check"), "What would be restored"),
            (("restore", name, "--to", copy), "Restored"),
            (("prune", name, "--check"), "What would be pruned"),
            (("prune", name), "Pruned"),
        ):
            code, said, told = command(*words)
            assert (code, told) == (0, ""), f"{words}: {said}{told}"
            assert heading in said, f"{words}: {said}"
        [manifest] = storage.manifests()
        assert command("delete", name, manifest["id"])[0] == 3
        assert command("hold", name, manifest["id"], "--release")[0] == 0
        assert command("delete", name, manifest["id"])[0] == 0
        assert storage.manifests() == []
        assert command("restore", "no such one", "--to", "x")[0] == 2
        assert hypervisor.db.virsh("domstate", copy).strip() == "shut off"
    finally:
        # Other tests count the machines.
        with contextlib.suppress(RuntimeError):
            hypervisor.db.virsh("undefine", copy)
        for image in hypervisor.db.directory.glob(f"{copy}-*"):
            image.unlink()


@pytest.fixture
def panel(database_server: MariaDB) -> MariaDB:
    database_server.reset(*PANEL, *PACK_SHAPE)
    return database_server


def with_panel(home: Path, hypervisor: Hypervisor, panel: MariaDB) -> Installed:
    login = {f"vmforge_backup_{name}": value for name, value in panel.params().items()}
    return Installed(home, hypervisor, login)


def test_policies_and_what_goes_on(hypervisor: Hypervisor, panel: MariaDB, tmp_path: Path) -> None:
    command = with_panel(tmp_path / "home", hypervisor, panel)
    assert command("policy", "web1", "--daily", "14", "--max-gb", "0")[0] == 0
    [row] = panel.sql("SELECT * FROM backup_policies")
    assert (row["vm_uuid"], row["keep_daily"], row["keep_weekly"], row["max_total_gb"]) == (WEB, 14, None, 0)
    code, said, told = command("policy", WEB, "--json")
    assert code == 0, told
    assert json.loads(said)["rows"][0]["keep_daily"] == 14
    code, said, told = command("status")
    assert (code, said, told) == (0, "What is going on\n\nNothing.\n", "")


@pytest.mark.exhaustive
def test_policies_that_are_not_there_or_only_planned(hypervisor: Hypervisor, panel: MariaDB, tmp_path: Path) -> None:
    command = with_panel(tmp_path / "home", hypervisor, panel)
    assert "web1 has no policy of its own." in command("policy", "web1")[1]
    assert panel.sql("SELECT * FROM backup_policies") == []
    assert command("policy", "web1", "--daily", "14", "--max-gb", "0", "--check")[0] == 0
    assert panel.sql("SELECT * FROM backup_policies") == []
    code, said, told = command("policy", "nobody", "--remove")
    assert code == 2, said + told
    assert "The panel has no VM 'nobody'" in told
