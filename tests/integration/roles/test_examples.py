# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every example in the documentation runs as it is; only names, places and keys are put in."""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path
from typing import Any

import yaml

from tests.bed.ansible import ROOT
from tests.bed.s3 import S3Server
from tests.integration.roles.conftest import Hypervisor, Play, Storage

# In this order, for later ones use what earlier ones registered.
DOCUMENTED = [
    "modules/vmforge_vm_info",
    "modules/vmforge_backup_info",
    "modules/vmforge_backup",
    "modules/vmforge_backup_info",
    "modules/vmforge_backup_verify",
    "modules/vmforge_backup_restore",
    "modules/vmforge_backup_job",
    "modules/vmforge_table",
    "filter/assign_vms",
    "filter/backup_report",
    "filter/backup_listing",
    "filter/verify_report",
    "filter/restore_host",
    "filter/backup_metrics",
    "filter/env_variables",
    "filter/env_values",
    "test/installed_module",
    "modules/vmforge_env",
    "modules/vmforge_env_info",
]


VERIFY = "vmforge.backup.vmforge_backup_verify"


def examples(name: str) -> list[dict[str, Any]]:
    for node in ast.parse((ROOT / "plugins" / f"{name}.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "EXAMPLES":
            tasks: list[dict[str, Any]] = yaml.safe_load(ast.literal_eval(node.value))
            return tasks
    raise AssertionError(f"{name} has no examples")


def test_examples_run(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage, bucket: S3Server, tmp_path: Path
) -> None:
    tasks = [task for name in DOCUMENTED for task in examples(name)]
    # One of the backups is enough to boot.
    [boot] = [task[VERIFY] for task in tasks if task.get(VERIFY, {}).get("level") == "boot"]
    boot["sample"] = "1/9"
    # The very first listing has to find something.
    first = {"name": "First backup", "vmforge.backup.vmforge_backup": {"vm": hypervisor.db.name}}
    defaults = {"backup_dir": str(storage.backups)}
    text = yaml.safe_dump(
        [
            {
                "hosts": "localhost",
                "gather_facts": False,
                "vars": {
                    "ansible_python_interpreter": "/usr/bin/python3",
                    "s3_access_key": bucket.access_key,
                    "s3_secret_key": bucket.secret_key,
                    "located": "{{ domains }}",
                },
                "module_defaults": {
                    "vmforge.backup.vmforge_backup": {**defaults, "scratch_dir": str(storage.place / "scratch")},
                    "vmforge.backup.vmforge_backup_info": defaults,
                    "vmforge.backup.vmforge_backup_verify": {
                        **defaults,
                        "scratch_dir": str(storage.place / "scratch"),
                        "screenshot_dir": str(storage.place / "screenshots"),
                    },
                    "vmforge.backup.vmforge_backup_restore": {**defaults, "state_dir": str(storage.place / "state")},
                },
                "tasks": [first, *tasks],
            }
        ],
        sort_keys=False,
    )
    for sample, real in (
        ("web1", hypervisor.web.name),
        ("web2", hypervisor.db.name),
        ("7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed", hypervisor.db.uuid),
        ("s3.example.com:9000", bucket.endpoint),
        ("/var/www/vmforge/.env", str(storage.place / ".env")),
        ("vm-backups", bucket.bucket),
    ):
        assert sample in text
        text = text.replace(sample, real)
    playbook = tmp_path / "examples.yml"
    playbook.write_text(text)
    try:
        run = play_newest(playbook)
        assert run.code == 0, run.text
    finally:
        # Other tests count the machines.
        with contextlib.suppress(RuntimeError):
            hypervisor.web.virsh("undefine", f"{hypervisor.web.name}-check")
        with contextlib.suppress(RuntimeError):
            hypervisor.web.virsh("destroy", f"{hypervisor.web.name}-now")
        with contextlib.suppress(RuntimeError):
            hypervisor.web.virsh("undefine", f"{hypervisor.web.name}-now")
    # A loop over nothing is the one thing that may be skipped.
    assert "skipped=1 " in run.text
    quiesced = [item for item in storage.manifests() if item["consistency"] == "quiesced" and len(item["disks"]) == 1]
    assert [item["vm"]["name"] for item in quiesced] == [hypervisor.web.name]
