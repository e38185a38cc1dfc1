# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One host of a fleet by itself: systemd and packages, and nothing of ours."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.fleet.image import CORE, image, wheels
from tests.fleet.podman import Container, podman


@contextlib.contextmanager
def host_alone(place: Path, mounts: Sequence[Path] = ()) -> Iterator[tuple[Container, dict[str, Any]]]:
    """A host ``master``, and the variables with which an inventory reaches it and the role ``schedule`` installs there.

    Args:
        place: A directory for its key.
        mounts: Directories of this machine that it sees at their own paths.
    """
    name = f"vmforge-alone-{secrets.token_hex(4)}"
    host = Container(name, "master")
    podman("network", "create", name)
    try:
        [subnet] = json.loads(podman("network", "inspect", name).stdout)[0]["subnets"]
        # Of its own, for a host that was off would come back with another one.
        address = str(ipaddress.ip_address(subnet["gateway"]) + 10)
        host.create(image(), name, address, [wheels(), *mounts])
        key = place / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        host.wait_booted()
        host.write("/root/.ssh/authorized_keys", key.with_suffix(".pub").read_text(), "0600")
        yield (
            host,
            {
                "ansible_host": address,
                "ansible_user": "root",
                "ansible_ssh_private_key_file": str(key),
                "ansible_ssh_common_args": "-F /dev/null -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
                "ansible_python_interpreter": "/usr/bin/python3",
                "vmforge_backup_schedule_ansible_core": f"ansible-core=={CORE}.*",
                "vmforge_backup_schedule_pip_arguments": f"--no-index --find-links={wheels()}",
            },
        )
    finally:
        host.remove()
        podman("network", "rm", "-f", name, check=False)
