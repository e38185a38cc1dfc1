# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m tests.fleet up|add|down|info|verify|kill|revive|image|clean [NAME]``: a fleet to try things on."""

from __future__ import annotations

import argparse

from tests.fleet.fleet import NODES, Fleet
from tests.fleet.image import image, remove_images
from tests.fleet.verify import compare


def main() -> None:
    """Do as told."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description=__doc__)
    parser.add_argument("action", choices=["image", "up", "add", "down", "info", "verify", "kill", "revive", "clean"])
    parser.add_argument("name", nargs="?", default="default", help="of the fleet")
    parser.add_argument("--node", choices=NODES, default=NODES[-1], help="for add, kill and revive")
    parser.add_argument(
        "--later", choices=NODES, action="append", default=[], help="for up: a node that is added later"
    )
    parser.add_argument("--guests-off", action="store_true", help="for revive: leave its guests off")
    given = parser.parse_args()
    fleet = Fleet(given.name)
    if given.action == "image":
        print(image())
    elif given.action == "up":
        fleet.up(given.later)
        _tell(fleet)
    elif given.action == "add":
        fleet.add(given.node)
    elif given.action == "info":
        _tell(fleet)
    elif given.action == "verify":
        _verify(fleet)
    elif given.action == "kill":
        fleet.hosts[given.node].kill()
    elif given.action == "revive":
        fleet.revive(given.node, guests=not given.guests_off)
    else:
        fleet.down()
        if given.action == "clean":
            remove_images()


def _tell(fleet: Fleet) -> None:
    print(f"ansible-playbook -i {fleet.directory / 'inventory'} playbooks/list.yml")
    for host, address in fleet.state["addresses"].items():
        print(f"ssh -F /dev/null -o StrictHostKeyChecking=no -i {fleet.directory / 'key'} root@{address}   # {host}")
    print(f"S3: {fleet.s3.endpoint}/{fleet.s3.bucket}")


def _verify(fleet: Fleet) -> None:
    found = compare(fleet)
    for problem in found.problems:
        print(problem)
    if found.problems:
        raise SystemExit(f"{len(found.problems)} problems")
    print(f"{found.backups} backups: database, disks and bucket agree")


main()
