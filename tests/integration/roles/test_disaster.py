# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of ``docs/disaster-recovery.md``, executed as they stand there, with nothing left but a bucket."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

from tests.bed.ansible import ROOT
from tests.bed.guest import MIB, Disk, Guest, scratch_directory
from tests.bed.s3 import S3Server
from tests.integration.roles.conftest import Hypervisor, Play, Storage, nodes

PAGE = ROOT / "docs" / "disaster-recovery.md"


def commands(variables: Path, sections: Iterable[int], **names: str) -> list[list[str]]:
    """Those of some sections; only the file of variables and names are put in: ``vm="web9"`` for ``vm=web1``."""
    found = []
    for section in sections:
        text = PAGE.read_text().split(f"\n## {section}. ")[1].split("\n## ")[0]
        blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        assert blocks
        for line in "".join(blocks).splitlines():
            command = line.replace("@recovery.yml", f"@{variables}")
            for name, value in names.items():
                command = re.sub(rf"\b{name}=\S+", f"{name}={value}", command)
            found.append(shlex.split(command))
    assert all(argv[0] == "ansible-playbook" for argv in found)
    return found


def test_a_machine_comes_back_from_the_bucket_alone(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage, bucket: S3Server, tmp_path: Path
) -> None:
    offsite = {
        "vmforge_backup_s3_endpoint": bucket.endpoint,
        "vmforge_backup_s3_bucket": bucket.bucket,
        "vmforge_backup_s3_prefix": f"disaster/{uuid.uuid4().hex[:8]}",
        "vmforge_backup_s3_access_key": bucket.access_key,
        "vmforge_backup_s3_secret_key": bucket.secret_key,
    }
    with scratch_directory("lost") as place, scratch_directory("found") as images:
        disk = Disk(place / "lost.qcow2", size=24 * MIB)
        lost = Guest("lost", place, [disk], pause=20_000, agent=True, run=hypervisor.libvirt.run)
        with lost:
            newest = lost.wait_more(20)
            made = play_newest(
                "backup.yml", vm=lost.name, inventory=nodes("hv1"), vmforge_backup_offsite="s3", **offsite
            )
            assert made.code == 0, made.text
        assert disk.path is not None
        disk.path.unlink()
        lost.log.unlink()
        shutil.rmtree(storage.backups)
        recovery = tmp_path / "recovery.yml"
        more = {
            "vmforge_backup_restore_storage": str(images),
            "vmforge_backup_restore_state_dir": str(images / "state"),
        }
        recovery.write_text(json.dumps({**offsite, **more, "vmforge_backup_manage_packages": False}))
        texts = []
        try:
            for argv in commands(recovery, (2, 3, 4), vm=lost.name):
                run = play_newest(ROOT / argv[1], *argv[2:])
                assert run.code == 0, f"{argv}: {run.text}"
                texts.append(run.text)
            assert lost.name in texts[1]
            assert "good" in texts[2]
            assert lost.state() == "running"
            assert int(lost.wait(r"found 1\.\.(\d+) intact").group(1)) >= newest
        finally:
            lost.undefine()
