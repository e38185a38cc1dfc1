# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``playbooks/backup.yml``: one host without an inventory, and fleets in which something is wrong."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.bed.s3 import S3Server
from tests.integration.roles.conftest import DEAD, Hypervisor, Play, Storage, nodes

FOREIGN = """<node>
  <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
    <name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory><os><type>hvm</type></os>
    <test:runstate>{state}</test:runstate>
  </domain>
</node>"""
RUNNING, OFF = 1, 5
OTHER_UUID = "11111111-2222-4333-8444-555555555555"


def foreign(place: Path, name: str, uuid: str = OTHER_UUID, state: int = RUNNING) -> str:
    """Another node, played by libvirt's test driver, with one domain; its line in the inventory."""
    path = place / "foreign.xml"
    path.write_text(FOREIGN.format(name=name, uuid=uuid, state=state))
    return f"other vmforge_backup_uri=test://{path}"


def test_one_host_without_an_inventory(play: Play, hypervisor: Hypervisor, storage: Storage) -> None:
    web, db = hypervisor.web, hypervisor.db
    run = play("backup.yml", vm=f"{db.name}, {web.uuid.upper()}")
    assert run.code == 0, run.text
    assert run.rows == [(db.name, "localhost", "created"), (web.name, "localhost", "created")]
    assert f"\n{web.name}  " in run.text
    assert {manifest["vm"]["name"]: manifest["consistency"] for manifest in storage.manifests()} == {
        db.name: "offline",
        web.name: "quiesced",
    }
    [image] = storage.backups.glob(f"{db.uuid}/*/vda.qcow2")
    subprocess.run(["qemu-img", "compare", str(image), str(db.disks[0].path)], check=True, capture_output=True)


@pytest.mark.exhaustive
def test_what_is_young_enough_is_not_backed_up_again(play: Play, hypervisor: Hypervisor, storage: Storage) -> None:
    db = hypervisor.db
    run = play("backup.yml", vm=[db.name], vmforge_backup_max_age="1h")
    assert (run.code, run.rows) == (0, [(db.name, "localhost", "created")])
    again = play("backup.yml", vm=[db.name], vmforge_backup_max_age="1h")
    assert (again.code, again.rows) == (0, [(db.name, "localhost", "fresh")])
    assert len(storage.manifests()) == 1


def test_without_a_name_all_are_backed_up_and_check_mode_only_plans(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage
) -> None:
    run = play_newest("backup.yml", "--check", "--diff", vm="")
    assert run.code == 0, run.text
    assert run.rows == [(guest.name, "localhost", "planned") for guest in (hypervisor.db, hypervisor.web)]
    assert "Backups that would be made" in run.text
    assert "changed=1" in run.text
    assert list(storage.backups.iterdir()) == []


def test_what_is_wrong_in_a_fleet_stops_nothing_else(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage
) -> None:
    db = hypervisor.db
    inventory = nodes(
        "good",
        foreign(storage.place, "nodisk"),
        DEAD,
        "broken vmforge_backup_uri=test:///nowhere",
        "wrong vmforge_backup_quiesce=sometimes",
    )
    run = play_newest("backup.yml", vm=[db.name, "nodisk", "nope"], inventory=inventory)
    assert run.code == 2
    assert run.rows == [
        (db.name, "good", "created"),
        ("nodisk", "other", "failed"),
        ("nope", "-", "not found"),
        ("-", "dead", "unreachable"),
        ("-", "broken", "failed"),
        ("-", "wrong", "failed"),
    ]
    assert [manifest["vm"]["node"] for manifest in storage.manifests()] == ["good"]
    said = "nope is on none of the nodes searched (good, other); it may be on one that did not answer (dead, broken)"
    assert said in run.text
    assert "Connection refused" in run.text
    assert "Traceback" not in run.text
    for host, failed in (("good", 1), ("other", 1), ("dead", 1), ("broken", 1), ("wrong", 1)):
        assert f"failed={failed}" in next(line for line in run.text.splitlines() if line.startswith(f"{host} "))


@pytest.mark.exhaustive
def test_a_wrong_name_is_one_clear_error(play_newest: Play, storage: Storage) -> None:
    run = play_newest("backup.yml", vm="nope", inventory=nodes("good"))
    assert (run.code, run.rows) == (2, [("nope", "-", "not found")])
    assert "nope is on none of the nodes searched (good)" in run.text
    assert list(storage.backups.iterdir()) == []


def test_one_name_on_two_nodes_is_refused(play_newest: Play, hypervisor: Hypervisor, storage: Storage) -> None:
    db = hypervisor.db
    inventory = nodes("good", foreign(storage.place, db.name))
    run = play_newest("backup.yml", vm=db.name, inventory=inventory)
    assert (run.code, run.rows) == (2, [(db.name, "-", "ambiguous")])
    assert f"{db.uuid} on good, {OTHER_UUID} on other" in run.text
    assert list(storage.backups.iterdir()) == []


@pytest.mark.exhaustive
def test_one_name_on_two_nodes_is_backed_up_by_its_uuid(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage
) -> None:
    db = hypervisor.db
    run = play_newest("backup.yml", vm=db.uuid, inventory=nodes("good", foreign(storage.place, db.name)))
    assert (run.code, run.rows) == (0, [(db.name, "good", "created")])


@pytest.mark.exhaustive
def test_a_machine_that_was_moved_is_not_read_where_it_is_off(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage
) -> None:
    web = hypervisor.web
    inventory = nodes(foreign(storage.place, web.name, web.uuid, OFF), "good")
    run = play_newest("backup.yml", vm=web.name, inventory=inventory)
    assert (run.code, run.rows) == (0, [(web.name, "good", "created"), (web.name, "other", "skipped")])


ONE_BY_ONE = """
- hosts: vmforge_nodes
  gather_facts: false
  serial: 1
  roles:
    - role: vmforge.backup.backup
"""


@pytest.mark.exhaustive
def test_one_node_at_a_time(play_newest: Play, hypervisor: Hypervisor, storage: Storage) -> None:
    db = hypervisor.db
    playbook = storage.place / "mine.yml"
    playbook.write_text(ONE_BY_ONE)
    inventory = nodes(DEAD, foreign(storage.place, "nodisk"), "good")
    run = play_newest(playbook, vm=[db.name, "nodisk"], inventory=inventory)
    assert run.code == 2
    assert run.rows == [("nodisk", "other", "failed"), (db.name, "good", "created"), ("-", "dead", "unreachable")]
    assert run.text.count("RESULT") == 1


@pytest.mark.exhaustive
def test_limit_searches_only_those_nodes(play_newest: Play, hypervisor: Hypervisor, storage: Storage) -> None:
    inventory = nodes("good", foreign(storage.place, "nodisk"))
    run = play_newest("backup.yml", "--limit", "other", vm=hypervisor.db.name, inventory=inventory)
    assert (run.code, run.rows) == (2, [(hypervisor.db.name, "-", "not found")])
    assert "nodes searched (other)" in run.text


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"vmforge_backup_quiesce": "sometimes"}, "backup_quiesce"),
        pytest.param({"vmforge_backup_parallel": "many"}, "backup_parallel", marks=pytest.mark.exhaustive),
        pytest.param({"vmforge_backup_offsite": "s3"}, "s3_bucket", marks=pytest.mark.exhaustive),
        pytest.param({"vmforge_backup_rate_limit": "fast"}, "rate_limit", marks=pytest.mark.exhaustive),
        pytest.param(
            {"vmforge_backup_dir": "/nonexistent/dir"},
            "/nonexistent/dir does not exist",
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_a_wrong_variable_is_named(
    play_newest: Play, hypervisor: Hypervisor, storage: Storage, variables: dict[str, str], said: str
) -> None:
    run = play_newest("backup.yml", vm=hypervisor.db.name, **variables)
    assert run.code == 2
    assert said in run.text
    assert "Traceback" not in run.text
    assert not any(storage.backups.glob("*/*"))


def test_no_secret_in_any_output(play_newest: Play, hypervisor: Hypervisor, bucket: S3Server) -> None:
    secret, token = "s3cr3t-of-the-bucket/+x", "t0ken-of-the-session"
    keys = {"vmforge_backup_s3_access_key": "wrong", "vmforge_backup_s3_secret_key": secret}
    run = play_newest(
        "backup.yml",
        "-vvvv",
        "--diff",
        vm=hypervisor.db.name,
        vmforge_backup_offsite="s3",
        vmforge_backup_s3_endpoint=bucket.endpoint,
        vmforge_backup_s3_bucket=bucket.bucket,
        vmforge_backup_s3_session_token=token,
        **keys,
    )
    assert (run.code, run.rows) == (2, [(hypervisor.db.name, "localhost", "failed")])
    assert secret not in run.text
    assert token not in run.text
