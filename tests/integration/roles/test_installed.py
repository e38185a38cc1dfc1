# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as people install it, without the checkout and its ``ansible.cfg``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bed.ansible import Ansible, found_cores


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


def test_playbooks_are_found_by_name(core: Ansible, installed: dict[str, str], tmp_path: Path) -> None:
    done = core.run("ansible-playbook", "vmforge.backup.list", "-e", f"vmforge_backup_dir={tmp_path}", env=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "There is no backup." in done.stdout
    for name in ("backup", "site"):
        done = core.run("ansible-playbook", f"vmforge.backup.{name}", "--syntax-check", env=installed)
        assert done.returncode == 0, done.stderr


def test_every_plugin_and_role_has_documentation(core: Ansible, installed: dict[str, str]) -> None:
    for kind, names in {
        "module": (
            "vmforge_backup",
            "vmforge_backup_info",
            "vmforge_env",
            "vmforge_env_info",
            "vmforge_vm_info",
            "vmforge_table",
        ),
        "filter": ("assign_vms", "backup_listing", "backup_metrics", "backup_report", "env_values", "env_variables"),
        "role": ("backup", "env", "list", "metrics", "node", "schedule"),
    }.items():
        done = core.run(
            "ansible-doc", "-t", kind, "--json", *(f"vmforge.backup.{name}" for name in names), env=installed
        )
        assert done.returncode == 0, done.stderr
        assert "was not found" not in done.stderr
