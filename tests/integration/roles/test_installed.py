# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as people install it, without the checkout and its ``ansible.cfg``."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.bed.ansible import ROOT, SYSTEM_PATH, Ansible, found_cores
from tests.integration.roles.conftest import Hypervisor, Storage


@pytest.fixture(scope="module")
def core() -> Ansible:
    """The newest core."""
    return found_cores()[-1]


@pytest.fixture(scope="module")
def installed(core: Ansible, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the built collection is found, and nothing of the checkout."""
    place = tmp_path_factory.mktemp("installed")
    done = core.run("ansible-galaxy", "collection", "build", "--output-path", str(place))
    assert done.returncode == 0, done.stderr
    [archive] = place.glob("vmforge-backup-*.tar.gz")
    config = place / "ansible.cfg"
    config.write_text("")
    env = {"ANSIBLE_COLLECTIONS_PATH": str(place), "ANSIBLE_CONFIG": str(config)}
    done = core.run("ansible-galaxy", "collection", "install", "--offline", "-p", str(place), str(archive), env=env)
    assert done.returncode == 0, done.stderr
    target = place / "ansible_collections" / "vmforge" / "backup"
    assert (target / "playbooks").exists()
    assert not (target / "tests").exists()
    return env


def commands(machine: str, *, all_of_them: bool) -> list[list[str]]:
    """Those of ``docs/getting-started.md`` that work on a machine; those that only plan as well, or not."""
    text = (ROOT / "docs" / "getting-started.md").read_text()
    lines = re.findall(r"^ansible-playbook (.* -e vm=web1.*|.*\.site --check.*)$", text, re.MULTILINE)
    return [shlex.split(line.replace("web1", machine)) for line in lines if all_of_them or "--check" not in line]


@pytest.mark.parametrize("all_of_them", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_a_beginner_gets_from_a_backup_to_a_restored_machine(
    core: Ansible,
    installed: dict[str, str],
    hypervisor: Hypervisor,
    storage: Storage,
    tmp_path: Path,
    all_of_them: bool,
) -> None:
    variables = tmp_path / "variables.json"
    variables.write_text(
        json.dumps({**storage.variables, "vmforge_backup_restore_state_dir": str(storage.place / "state")})
    )
    texts: dict[str, str] = {}
    try:
        for argv in commands(hypervisor.db.name, all_of_them=all_of_them):
            done = subprocess.run(
                hypervisor.libvirt.argv([str(core.bin / "ansible-playbook"), *argv, "-e", f"@{variables}"]),
                env={"HOME": str(tmp_path), "LANG": "C.UTF-8", "PATH": f"{core.bin}:{SYSTEM_PATH}", **installed},
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=1800,
                check=False,
            )
            assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
            texts[argv[0].rpartition(".")[2]] = done.stdout
        copy = f"{hypervisor.db.name}-copy"
        assert list(texts) == [*(["site"] if all_of_them else []), "backup", "list", "verify", "restore"]
        assert "offline" in texts["list"]
        assert len(storage.manifests()) == 1
        assert hypervisor.db.virsh("domstate", copy).strip() == "shut off"
    finally:
        # Other tests count the machines.
        with contextlib.suppress(RuntimeError):
            hypervisor.db.virsh("undefine", f"{hypervisor.db.name}-copy")
        for image in hypervisor.db.directory.glob(f"{hypervisor.db.name}-copy-*"):
            image.unlink()


def test_every_playbook_can_be_read(core: Ansible, installed: dict[str, str]) -> None:
    names = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
    done = core.run("ansible-playbook", *(f"vmforge.backup.{name}" for name in names), "--syntax-check", env=installed)
    assert done.returncode == 0, done.stderr


def test_every_plugin_and_role_has_documentation(core: Ansible, installed: dict[str, str]) -> None:
    done = core.run("ansible-doc", "--metadata-dump", "vmforge.backup", env=installed)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["all"]
    folders = {kind: ROOT / "plugins" / kind for kind in ("callback", "filter", "inventory", "test")}
    for kind, folder in {**folders, "module": ROOT / "plugins" / "modules"}.items():
        names = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
        assert set(found[kind]) == {f"vmforge.backup.{name}" for name in names}
        assert all(entry["doc"] for entry in found[kind].values())
    roles = [path.name for path in (ROOT / "roles").iterdir()]
    assert set(found["role"]) == {f"vmforge.backup.{name}" for name in roles}
    assert all(entry["entry_points"] for entry in found["role"].values())
