# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing is restored over what another machine uses, by whatever name it calls that."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils import _restore_check
from ansible_collections.vmforge.backup.plugins.module_utils._domain_xml import Disk
from ansible_collections.vmforge.backup.plugins.module_utils._errors import HypervisorError, InputError

XML = """<domain><name>db1</name><uuid>0d6c63d8-64f7-4685-8b7d-fd3e5b49c83b</uuid><devices>
  <disk type='network'><source protocol='rbd' name='pool/x'/><target dev='vda'/></disk>
  {disk}</devices></domain>"""
FILE = "<disk type='file'><source file='{path}'/><target dev='vdb'/></disk>"
VOLUME = "<disk type='volume'><source pool='lvm' volume='lv'/><target dev='vdb'/></disk>"


class Domain:
    """Another machine, and where its one volume lies; None where its pool is off."""

    name, uuid = "db1", "theirs"

    def __init__(self, disk: str, volume: Path | None) -> None:
        self._xml, self._volume = XML.format(disk=disk), volume

    def xml(self, *, inactive: bool) -> str:
        assert not inactive
        return self._xml

    def source_path(self, disk: Disk) -> str:
        if disk.pool is None:
            return disk.source
        if self._volume is None:
            raise HypervisorError("The pool is off.")
        return str(self._volume)


@pytest.mark.parametrize("kind", ["file", "volume", "through a link"])
@pytest.mark.parametrize("used", [True, False])
def test_a_disk_of_another_machine(tmp_path: Path, kind: str, used: bool) -> None:
    wanted, link = tmp_path / "wanted", tmp_path / "link"
    link.symlink_to(wanted)
    place = tmp_path / "other" if not used else link if kind == "through a link" else wanted
    domain = Domain(VOLUME, place) if kind != "file" else Domain(FILE.format(path=place), None)
    if not used:
        check(domain, wanted)
        return
    with pytest.raises(InputError, match="is a disk of 'db1'") as caught:
        check(domain, wanted)
    assert caught.value.code == "target_exists"


def test_a_volume_that_nobody_knows_is_no_obstacle(tmp_path: Path) -> None:
    check(Domain(VOLUME, None), tmp_path / "wanted")


def check(domain: Domain, wanted: Path) -> None:
    plan: Any = SimpleNamespace(uuid="ours", images=[SimpleNamespace(path=wanted)])
    hypervisor: Any = SimpleNamespace(domains=lambda: [domain])
    _restore_check._refuse_shared(plan, hypervisor)
