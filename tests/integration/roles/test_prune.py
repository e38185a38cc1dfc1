# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``playbooks/prune.yml``, ``delete.yml`` and ``hold.yml``: each node its own, one that is away, and the bucket."""

from __future__ import annotations

import json
import re
import socket
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bed.s3 import S3Server
from tests.integration.engine.shelf import Shelf
from tests.integration.roles.conftest import DEAD, Hypervisor, Play, Run, Storage, nodes
from tests.integration.roles.test_examples import examples

# A host whose clock is ten minutes late, as its Python sees it.
LATE = """
import datetime


class Late(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) - datetime.timedelta(minutes=10)


datetime.datetime = Late
"""
WEEK = {"vmforge_backup_policy": {"keep_daily": 7, "keep_weekly": 0, "keep_monthly": 0}}


def became(run: Run) -> dict[str, str]:
    """What became of each backup."""
    return {row["id"]: row["result"] for row in run.stats["vmforge_backup_prune_report"]["backups"]}


def offsite(bucket: S3Server, storage: Storage) -> dict[str, Any]:
    """The variables of a bucket."""
    return {
        "vmforge_backup_s3_endpoint": bucket.endpoint,
        "vmforge_backup_s3_bucket": bucket.bucket,
        "vmforge_backup_s3_access_key": bucket.access_key,
        "vmforge_backup_s3_secret_key": bucket.secret_key,
        "vmforge_backup_s3_prefix": f"prune/{storage.place.name}",
    }


@pytest.fixture
def one(hypervisor: Hypervisor, storage: Storage) -> Shelf:
    """The node ``one`` with backups of a machine that is defined here."""
    return Shelf(storage.backups, node="one", vm=hypervisor.db.uuid, name=hypervisor.db.name)


@pytest.fixture
def two(hypervisor: Hypervisor, storage: Storage) -> Shelf:
    """Another node, on which the same machine was before."""
    return Shelf(storage.place / "two", node="two", vm=hypervisor.db.uuid, name=hypervisor.db.name)


def both_here(one: Shelf, two: Shelf, *more: str) -> str:
    """The directories as variables of the hosts; the one of all is for none of them."""
    return nodes(f"one prune_dir={one.path}", f"two prune_dir={two.path}", *more)


def test_the_plan_a_persons_word_and_the_run(play_newest: Play, one: Shelf) -> None:
    ids = one.days(20)
    run = play_newest("prune.yml", "--check", "--diff", inventory=nodes("one"), **WEEK)
    assert run.code == 0, run.text
    assert became(run) == {**dict.fromkeys(ids[:7], "kept"), **dict.fromkeys(ids[7:], "planned")}
    assert f"daily {ids[1][:4]}-{ids[1][4:6]}-{ids[1][6:8]}" in run.text
    assert "no rule keeps it" in run.text
    assert "keeps by rule: newest good 1" in run.text
    [row] = run.stats["vmforge_backup_prune_report"]["vms"]
    assert (row["result"], row["kept"], row["deleted"]) == ("confirm", 7, 13)
    assert "-e vmforge_backup_confirm=true" in run.text
    assert one.ids() == ids
    run = play_newest("prune.yml", inventory=nodes("one"), **WEEK)
    assert run.code == 2
    assert "13 backups would be deleted and 7 kept" in run.text
    assert one.ids() == ids
    run = play_newest("prune.yml", inventory=nodes("one"), vmforge_backup_confirm=True, **WEEK)
    assert run.code == 0, run.text
    assert one.ids() == ids[:7]
    [row] = run.stats["vmforge_backup_prune_report"]["vms"]
    assert (row["result"], row["kept"], row["deleted"]) == ("pruned", 7, 13)


@pytest.mark.exhaustive
def test_each_node_deletes_its_own_by_one_plan(play_newest: Play, one: Shelf, two: Shelf) -> None:
    old, new = two.days(6, newest=datetime.now(timezone.utc) - timedelta(days=30)), one.days(8)
    run = play_newest("prune.yml", inventory=both_here(one, two), **WEEK)
    assert run.code == 0, run.text
    assert one.ids() == new[:7]
    assert two.ids() == []
    assert {became(run)[i] for i in old} == {"deleted"}
    [row] = run.stats["vmforge_backup_prune_report"]["vms"]
    assert (row["kept"], row["deleted"], row["nodes"]) == (7, 7, ["one", "two"])
    run = play_newest("prune.yml", inventory=both_here(one, two), **WEEK)
    assert run.code == 0, run.text
    assert run.text.count("changed=0 ") == 2


def test_one_node_away_and_nothing_is_pruned(play_newest: Play, one: Shelf, two: Shelf) -> None:
    ids = one.days(9)
    run = play_newest("prune.yml", inventory=both_here(one, two, DEAD), **WEEK)
    assert run.code == 2
    assert one.ids() == ids
    assert "dead could not be listed" in run.text
    assert [row["result"] for row in run.stats["vmforge_backup_prune_report"]["vms"]] == ["skipped"]


@pytest.mark.exhaustive
def test_a_part_of_the_nodes_is_not_enough_but_for_those_that_are_given_up(
    play_newest: Play, one: Shelf, two: Shelf
) -> None:
    ids = one.days(9)
    run = play_newest("prune.yml", "--limit", "one", inventory=both_here(one, two), **WEEK)
    assert run.code == 2
    assert "two could not be listed: it is not in this run" in run.text
    assert one.ids() == ids
    run = play_newest(
        "prune.yml",
        "--limit",
        "one,two",
        inventory=both_here(one, two, DEAD),
        vmforge_backup_ignore_nodes="dead",
        **WEEK,
    )
    assert run.code == 0, run.text
    assert one.ids() == ids[:7]


@pytest.mark.exhaustive
def test_what_nobody_knows_any_more_is_kept_and_said(play_newest: Play, one: Shelf) -> None:
    gone = Shelf(one.path, node="one", name="gone-from-the-panel")
    ids = gone.days(9)
    run = play_newest("prune.yml", inventory=nodes("one"), **WEEK)
    assert run.code == 0, run.text
    assert gone.ids() == ids
    assert "gone-from-the-panel: All its backups are kept, for neither libvirt" in run.text
    run = play_newest("prune.yml", inventory=nodes("one"), vm="nobody", **WEEK)
    assert run.code == 2
    assert "nobody has no backup" in run.text
    # A person may.
    run = play_newest("delete.yml", inventory=nodes("one"), vm="gone-from-the-panel", id=ids[0])
    assert run.code == 0, run.text
    assert gone.ids() == ids[1:]


@pytest.mark.exhaustive
def test_a_policy_that_keeps_nothing_stops_its_machine_alone(
    play_newest: Play, hypervisor: Hypervisor, one: Shelf
) -> None:
    other = Shelf(one.path, node="one", vm=hypervisor.web.uuid, name=hypervisor.web.name)
    ids, theirs = one.days(9), other.days(9)
    wrong = {hypervisor.db.name: {"keep_daily": 0}}
    run = play_newest("prune.yml", inventory=nodes("one"), vmforge_backup_policies=wrong, **WEEK)
    assert run.code == 2
    assert "nothing would be kept" in run.text
    assert sorted(one.ids()) == sorted([*ids, *theirs[:7]])


@pytest.mark.exhaustive
def test_a_clock_that_is_off_stops_it_before_the_bucket(
    play_newest: Play, one: Shelf, two: Shelf, storage: Storage, bucket: S3Server
) -> None:
    late = storage.place / "late"
    late.mkdir()
    (late / "sitecustomize.py").write_text(LATE)
    python = late / "python3"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={late}:$PYTHONPATH exec /usr/bin/python3 "$@"\n')
    python.chmod(0o755)
    variables = offsite(bucket, storage)
    variables.update(
        vmforge_backup_s3_delete_access_key=bucket.access_key,
        vmforge_backup_s3_delete_secret_key=bucket.secret_key,
        vmforge_backup_prune_state_dir=str(storage.place / "state"),
    )
    one.s3 = {"offsite": "s3", **bucket.params(s3_prefix=variables["vmforge_backup_s3_prefix"])}
    ids = one.days(9)
    two.days(1, newest=datetime.now(timezone.utc) - timedelta(days=30))
    one.upload(*ids)
    fleet = nodes(f"one prune_dir={one.path}", f"two prune_dir={two.path} ansible_python_interpreter={python}")
    run = play_newest("prune.yml", inventory=fleet, **variables, **WEEK)
    assert run.code == 2
    assert "its clock said" in run.text
    assert [problem["place"] for problem in run.stats["vmforge_backup_prune_report"]["problems"]] == ["two"]
    assert (len(one.bucket()), one.ids()) == (9, ids)


# The fleet of molecule does the second.
@pytest.mark.exhaustive
@pytest.mark.parametrize("split", [False, True], ids=["with the nodes' keys", "with the master's keys"])
def test_the_bucket(play_newest: Play, one: Shelf, storage: Storage, bucket: S3Server, split: bool) -> None:
    assert bucket.write_only is not None
    variables = offsite(bucket, storage)
    one.s3 = {"offsite": "s3", **bucket.params(s3_prefix=variables["vmforge_backup_s3_prefix"])}
    ids = one.days(9)
    one.upload(*ids[:8])
    one.upload(ids[8], drop_local=True)
    if split:
        variables.update(
            vmforge_backup_s3_delete_access_key=bucket.access_key,
            vmforge_backup_s3_delete_secret_key=bucket.secret_key,
            vmforge_backup_s3_access_key=bucket.write_only.access_key,
            vmforge_backup_s3_secret_key=bucket.write_only.secret_key,
            vmforge_backup_prune_state_dir=str(storage.place / "state"),
        )
    run = play_newest("prune.yml", "--check", inventory=nodes("one"), **variables, **WEEK)
    assert run.code == 0, run.text
    assert sorted(i for i, result in became(run).items() if result == "planned") == sorted(ids[7:])
    assert len(one.bucket()) == 9
    run = play_newest("prune.yml", inventory=nodes("one"), **variables, **WEEK)
    assert run.code == 0, run.text
    assert one.ids() == ids[:7]
    assert {entry["id"] for entry in one.bucket()} == set(ids[:7])
    for keys in (bucket.write_only, bucket):
        assert keys.secret_key not in run.text
    run = play_newest("prune.yml", inventory=nodes("one"), **variables, **WEEK)
    assert run.code == 0, run.text
    assert "changed=0" in run.text
    run = play_newest("delete.yml", inventory=nodes("one"), vm=one.name, id=ids[0], **variables)
    assert run.code == 0, run.text
    assert one.ids() == ids[1:7]
    assert {entry["id"] for entry in one.bucket()} == set(ids[1:7])


def test_a_bucket_that_cannot_be_listed_stops_it(
    play_newest: Play, one: Shelf, storage: Storage, bucket: S3Server
) -> None:
    ids = one.days(9)
    variables = dict(offsite(bucket, storage), vmforge_backup_s3_secret_key="n0t-the-s3cret")
    run = play_newest("prune.yml", inventory=nodes("one"), **variables, **WEEK)
    assert run.code == 2
    assert "S3 could not be listed" in run.text
    assert "n0t-the-s3cret" not in run.text
    assert one.ids() == ids


@pytest.mark.exhaustive
def test_delete_one_by_hand(play_newest: Play, one: Shelf, two: Shelf) -> None:
    mine, theirs = one.days(2), two.days(2, newest=datetime.now(timezone.utc) - timedelta(days=9))
    for wrong in ({}, {"vm": one.name}, {"id": mine[0]}):
        run = play_newest("delete.yml", inventory=both_here(one, two), **wrong)
        assert run.code == 2
        assert "Name one virtual machine and the backup" in run.text
    run = play_newest("delete.yml", inventory=both_here(one, two), vm=one.name, id="20200101T000000Z")
    assert run.code == 2
    assert f"there is no such backup. There are {mine[0]}, {mine[1]}, {theirs[0]}" in run.text
    held = two.path / two.vm / theirs[0] / "hold.json"
    held.write_text(json.dumps({"reason": "audit 7", "until": None}))
    run = play_newest("delete.yml", inventory=both_here(one, two), vm=one.name, id=theirs[0])
    assert run.code == 2
    assert "audit 7" in run.text
    assert (one.ids(), two.ids()) == (mine, theirs)
    held.unlink()
    run = play_newest("delete.yml", "--check", inventory=both_here(one, two), vm=one.name, id=theirs[0])
    assert run.code == 0, run.text
    assert (one.ids(), two.ids()) == (mine, theirs)
    run = play_newest("delete.yml", inventory=both_here(one, two), vm=one.name, id=theirs[0])
    assert run.code == 0, run.text
    assert (one.ids(), two.ids()) == (mine, theirs[1:])
    assert "keeps by rule" not in run.text
    assert became(run) == {theirs[0]: "deleted"}


@pytest.mark.exhaustive
def test_hold_one_wherever_it_is(play_newest: Play, one: Shelf, two: Shelf) -> None:
    def held(shelf: Shelf) -> list[str]:
        return [entry["id"] for entry in shelf.listing() if entry["hold"] is not None]

    theirs, mine = two.days(3, newest=datetime.now(timezone.utc) - timedelta(days=30)), one.days(8)
    fleet = nodes(f"one hold_dir={one.path} prune_dir={one.path}", f"two hold_dir={two.path} prune_dir={two.path}")
    why = {"vmforge_backup_hold_reason": "audit 7"}
    run = play_newest("hold.yml", inventory=fleet, vm=one.name, id=theirs[1])
    assert run.code == 2
    assert "Tell why it is held" in run.text
    run = play_newest("hold.yml", inventory=fleet, vm=one.name, id="20200101T000000Z", **why)
    assert run.code == 2
    assert f"There is no backup 20200101T000000Z of {one.name}. There are, newest first: {mine[0]}" in run.text
    run = play_newest("hold.yml", inventory=fleet, vm=one.name, id=theirs[1], **why)
    assert run.code == 0, run.text
    assert (held(one), held(two)) == ([], [theirs[1]])
    run = play_newest("hold.yml", inventory=fleet, vm=one.name, id="latest", **why)
    assert run.code == 0, run.text
    assert (held(one), held(two)) == ([mine[0]], [theirs[1]])
    run = play_newest("prune.yml", inventory=fleet, **WEEK)
    assert run.code == 0, run.text
    assert (one.ids(), two.ids()) == (mine[:7], [theirs[1]])
    assert "held: audit 7" in json.dumps(run.stats)
    run = play_newest("hold.yml", inventory=fleet, vm=one.name, id=theirs[1], vmforge_backup_hold_state="absent")
    assert run.code == 0, run.text
    assert held(two) == []


@pytest.mark.exhaustive
def test_roles_that_need_all_nodes_refuse_serial(play_newest: Play, one: Shelf, two: Shelf, tmp_path: Path) -> None:
    ids = one.days(9)
    roles = ["prune", "hold", "adopt", "restore"]
    tasks = [
        {
            "block": [{"ansible.builtin.include_role": {"name": f"vmforge.backup.{role}"}}],
            "rescue": [{"ansible.builtin.debug": {"msg": f"{role}: {{{{ ansible_failed_result.msg }}}}"}}],
        }
        for role in roles
    ]
    playbook = tmp_path / "serial.yml"
    playbook.write_text(
        yaml.safe_dump([{"hosts": "vmforge_nodes", "gather_facts": False, "serial": 1, "tasks": tasks}])
    )
    run = play_newest(playbook, inventory=both_here(one, two), vm=one.name, **WEEK)
    assert [role for role in roles if re.search(rf"{role}: .* Leave serial out of the play", run.text)] == roles
    assert one.ids() == ids


def test_examples_run(play_newest: Play, hypervisor: Hypervisor, storage: Storage, tmp_path: Path) -> None:
    """Of the modules and filters of pruning; only names and places are put in."""
    here = Shelf(storage.backups, node=socket.gethostname(), vm=hypervisor.db.uuid, name=hypervisor.db.name)
    ids = here.days(9)
    documented = ["modules/vmforge_backup_hold", "modules/vmforge_backup_prune"]
    documented += ["filter/prune_request", "filter/prune_share", "filter/prune_report"]
    tasks = [task for name in documented for task in examples(name)]
    place = {"backup_dir": str(storage.backups)}
    modules = ("vmforge_backup_info", "vmforge_backup_hold", "vmforge_backup_prune")
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "/usr/bin/python3"},
        "module_defaults": {f"vmforge.backup.{name}": place for name in modules},
        "tasks": tasks,
    }
    text = yaml.safe_dump([play], sort_keys=False)
    for sample, real in (("web1", here.name), ("20261122T151200Z", ids[3])):
        assert sample in text
        text = text.replace(sample, real)
    playbook = tmp_path / "examples.yml"
    playbook.write_text(text)
    run = play_newest(playbook)
    assert run.code == 0, run.text
    assert ids[3] not in here.ids()
    assert here.ids()[0] == ids[0]
    assert not list(storage.backups.glob("*/*/hold.json"))
