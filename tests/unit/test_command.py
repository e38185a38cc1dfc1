# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``vmforge-backup``: what its words mean, and what it ends with."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.plugin_utils._command import Setup, main
from ansible_collections.vmforge.backup.plugins.plugin_utils._command_line import (
    UsageError,
    completion,
    parse,
    to_yaml,
)

ID = "20261122T151200Z"


@pytest.mark.parametrize(
    ("words", "playbook", "variables"),
    [
        ("run web1 web2", "backup", {"vm": ["web1", "web2"]}),
        ("run --all --max-age 20h", "backup", {"vmforge_backup_max_age": "20h"}),
        ("list", "list", {}),
        (f"list web1 --id {ID}", "list", {"vm": ["web1"], "id": ID}),
        ("prune web1 --confirm", "prune", {"vm": ["web1"], "vmforge_backup_confirm": True}),
        (f"delete web1 {ID}", "delete", {"vm": "web1", "id": ID}),
        (
            "hold web1 latest --reason audit",
            "hold",
            {"vm": "web1", "id": "latest", "vmforge_backup_hold_reason": "audit"},
        ),
        (f"hold web1 {ID} --release", "hold", {"vm": "web1", "id": ID, "vmforge_backup_hold_state": "absent"}),
        (
            "policy web1 --daily 14 --max-gb 0 --offsite none",
            "policy",
            {"vm": "web1", "vmforge_backup_policy_set": {"keep_daily": 14, "max_total_gb": 0, "offsite": "none"}},
        ),
        ("policy web1 --reset offsite", "policy", {"vm": "web1", "vmforge_backup_policy_reset": ["offsite"]}),
        ("policy web1", "policy", {"vm": "web1"}),
        ("policy web1 --remove", "policy", {"vm": "web1", "vmforge_backup_policy_state": "absent"}),
        (
            "restore web1 --to web2 --node n2 --start",
            "restore",
            {"vm": "web1", "to": "web2", "node": "n2", "vmforge_backup_restore_start": True},
        ),
        (
            "restore web1 --before 2026-11-22T15:12:00Z --force",
            "restore",
            {"vm": "web1", "before": "2026-11-22T15:12:00Z", "vmforge_backup_restore_force": True},
        ),
        (
            "verify --level manifest --sample 1/7",
            "verify",
            {"vmforge_backup_verify_level": "manifest", "vmforge_backup_verify_sample": "1/7"},
        ),
        ("status", "status", {}),
    ],
)
def test_words_are_a_playbook_with_variables(words: str, playbook: str, variables: Mapping[str, Any]) -> None:
    command = parse(words.split(" "))
    assert (command.playbook, command.variables, command.check, command.json) == (playbook, variables, False, False)


def test_what_all_commands_have() -> None:
    command = parse(["list", "web1", "--json", "--check", "-vv", "--", "--limit", "n1"])
    assert (command.json, command.check, command.verbose) == (True, True, 2)
    assert (command.vms, command.more) == (("web1",), ("--limit", "n1"))


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["run"],
        ["run", "web1", "--all"],
        ["run", ""],
        ["delete", "web1"],
        ["delete", "web1", "latest"],
        ["delete", "web1", "../x"],
        ["hold", "web1", ID],
        ["policy", "web1", "--daily", "-1"],
        ["policy", "web1", "--daily", "many"],
        ["policy", "web1", "--remove", "--daily", "1"],
        ["policy", "web1", "--reset", "vm_uuid"],
        ["restore"],
        ["restore", "web1", "web2"],
        ["verify", "--level", "deep"],
        ["status", "web1"],
        ["list", "--nonsense"],
    ],
)
def test_what_makes_no_sense_is_refused_with_code_1(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError):
        parse(words)
    assert main(Setup(Path("/nowhere"), Path("/nowhere"), Path("/nowhere")), words) == 1
    assert "vmforge-backup" in capsys.readouterr().err


@given(
    st.dictionaries(
        st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1),
        st.recursive(
            st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
            max_leaves=5,
        ),
    )
)
@example({"a": {"long" * 300: False}})
def test_any_value_arrives_as_it_is(variables: dict[str, Any]) -> None:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))
    assert (yaml.load(to_yaml(variables), Loader) or {}) == variables


def test_no_text_is_a_template() -> None:
    assert to_yaml({"vm": ["{{ x }}"]}) == '---\n"vm": [!unsafe "{{ x }}"]\n'


def test_completion_knows_commands_and_options(tmp_path: Path) -> None:
    (tmp_path / "c").write_text(completion())

    def complete(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in ("vmforge-backup", *words))
        script = (
            f". {tmp_path}/c; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _vmforge_backup; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert complete("re") == ["restore"]
    assert set(complete("")) > {"run", "list", "prune", "delete", "hold", "policy", "restore", "verify", "status"}
    assert complete("restore", "web1", "--t") == ["--to"]


ANSIBLE = """#!/bin/sh
# Stands for ansible-playbook: answers as the test says, and notes what it was given.
echo "$ANSIBLE_STDOUT_CALLBACK $*" >>{place}/calls
for word; do case $word in @*) file=${{word#@}} ;; esac; done
cp "$file" {place}/variables
name=$(echo "$1" | sed 's/.*[.]//')
report=$(sed -n 's/.*report_file.*"\\(.*\\)"$/\\1/p' "$file")
[ -e {place}/$name.report ] && cp {place}/$name.report "$report"
[ -e {place}/$name.failures ] && cp {place}/$name.failures "$VMFORGE_BACKUP_FAILURES_FILE"
echo "the table of $name"
exit "$(cat {place}/$name.code)"
"""


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    program = tmp_path / "ansible-playbook"
    program.write_text(ANSIBLE.format(place=tmp_path))
    program.chmod(0o755)
    return Setup(tmp_path, tmp_path / "ansible.cfg", tmp_path, ["-e", "@/etc/secrets.yml"])


def answer(setup: Setup, name: str, code: int, rows: Any = None, failures: list[Any] | None = None) -> None:
    (setup.bin / f"{name}.code").write_text(str(code))
    if rows is not None:
        (setup.bin / f"{name}.report").write_text(json.dumps({"rows": rows, "notes": []}))
    if failures:
        (setup.bin / f"{name}.failures").write_text("".join(json.dumps(item) + "\n" for item in failures))


@pytest.mark.parametrize(
    ("words", "played", "listed", "code"),
    [
        ("run web1", (0, [{"vm": "web1", "result": "created"}], None), None, 0),
        ("run web1", (2, [{"vm": "web1", "result": "not found"}], None), None, 2),
        ("run web1", (2, [{"vm": "web1", "result": "failed"}], None), None, 3),
        ("run web1", (4, None, None), None, 3),
        ("list web1", (0, [{"vm": "web1"}], None), None, 0),
        ("list web1", (0, [], None), None, 2),
        ("list", (0, [], None), None, 0),
        ("restore web1", (2, None, [{"host": "n", "msg": "no", "code": "not_found"}]), (0, []), 2),
        ("restore web1", (2, None, [{"host": "n", "msg": "no", "code": "busy"}]), (0, [{"vm": "web1"}]), 3),
        (f"delete web1 {ID}", (2, [], None), (2, []), 3),
        ("policy web1 --remove", (2, None, [{"host": "n", "msg": "no", "code": "not_found"}]), None, 2),
        ("policy web1 --remove", (2, None, [{"host": "n", "msg": "no", "code": "database"}]), None, 3),
        ("status", (2, [], None), None, 3),
    ],
)
def test_exit_codes(
    setup: Setup, words: str, played: tuple[Any, ...], listed: tuple[Any, ...] | None, code: int
) -> None:
    if listed is not None:
        answer(setup, "list", *listed)
    answer(setup, parse(words.split(" ")).playbook, *played)
    assert main(setup, words.split(" ")) == code


def test_json_is_all_that_is_printed(setup: Setup, capfd: pytest.CaptureFixture[str]) -> None:
    answer(setup, "backup", 2, [{"vm": "web1", "result": "failed"}], [{"host": "n", "msg": "no", "code": None}])
    assert main(setup, ["run", "web1", "--json", "--check", "--", "--limit", "n"]) == 3
    said = capfd.readouterr()
    assert json.loads(said.out) == {
        "rows": [{"vm": "web1", "result": "failed"}],
        "notes": [],
        "failures": [{"host": "n", "msg": "no", "code": None}],
    }
    assert "the table of backup" in said.err
    [call] = (setup.bin / "calls").read_text().splitlines()
    start = "vmforge.backup.quiet vmforge.backup.backup --check --diff -e @/etc/secrets.yml --limit n -e @"
    assert call.startswith(start)
    assert '"vm": [!unsafe "web1"]' in (setup.bin / "variables").read_text()
    assert main(setup, ["list", "-vv"]) == 3
    assert (setup.bin / "calls").read_text().splitlines()[1].startswith(" vmforge.backup.list -vv -e @")
