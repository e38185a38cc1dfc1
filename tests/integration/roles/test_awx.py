# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""AWX as code: the real modules of awx.awx take every option of the role, and what they ask of AWX makes sense."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bed.ansible import ROOT, found_cores
from tests.bed.awx import FakeAwx, awx_collections, fake_awx

SECRETS = ("a-token-of-awx", "a-secret-of-s3", "a-secret-that-deletes", "a-password-of-the-database")
VARIABLES = {
    "vmforge_backup_awx_image": "registry.example.com/vmforge-backup:1.0.0",
    "vmforge_backup_awx_credentials": ["login to the nodes"],
    "vmforge_backup_awx_inventory_path": "inventory/vmforge.yml",
    "vmforge_backup_awx_inventory_variables": {"vmforge_backup_offsite": "s3"},
    "vmforge_backup_awx_notify_error": ["mail to the operators"],
    "vmforge_backup_s3_access_key": "AKIA",
    "vmforge_backup_s3_secret_key": SECRETS[1],
    "vmforge_backup_s3_delete_access_key": "AKID",
    "vmforge_backup_s3_delete_secret_key": SECRETS[2],
    "vmforge_backup_db_password": SECRETS[3],
}


@dataclass(frozen=True)
class Made:
    """What is in AWX after a run by a file of variables, and what the run said."""

    awx: FakeAwx
    file: Path
    first: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    file = tmp_path_factory.mktemp("awx") / "awx.yml"
    with fake_awx(SECRETS[0]) as awx:
        awx.add("organizations", name="Default")
        awx.add("credentials", name="login to the nodes", credential_type=0)
        awx.add("notification_templates", name="mail to the operators")
        file.write_text(
            json.dumps({**VARIABLES, "vmforge_backup_awx_host": awx.url, "vmforge_backup_awx_token": SECRETS[0]})
        )
        yield Made(awx, file, _run(file, "-vvv"))


def _run(file: Path, *argv: str, modules: bool = True) -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join([str(ROOT / ".collections"), *([str(awx_collections())] if modules else [])])
    return found_cores()[-1].run(
        *("ansible-playbook", "playbooks/awx.yml", "-e", f"@{file}", *argv),
        env={"ANSIBLE_COLLECTIONS_PATH": places, "ANSIBLE_PIPELINING": "1"},
    )


ROLE_OF = {"delete": "prune"}


def options(playbook: str) -> dict[str, Any]:
    """The documented options of the role that a playbook runs."""
    role = ROLE_OF.get(playbook, playbook)
    text = (ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text()
    found = yaml.safe_load(text)["argument_specs"]["main"]["options"]
    return {name[len(role) + 1 :]: option for name, option in found.items()}


def test_the_modules_take_everything(made: Made) -> None:
    assert made.first.returncode == 0, made.first.stdout[-3000:] + made.first.stderr
    assert "WARNING" not in made.first.stderr + made.first.stdout


@pytest.mark.exhaustive
def test_a_second_run_changes_nothing(made: Made) -> None:
    before = len(made.awx.calls)
    second = _run(made.file)
    assert second.returncode == 0, second.stdout
    assert "changed=0 " in second.stdout
    assert made.awx.calls[before:] == []


def test_without_the_modules_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "awx.yml").write_text("{}")
    run = _run(tmp_path / "awx.yml", modules=False)
    assert run.returncode == 2, run.stdout + run.stderr
    assert "The collection awx.awx is not installed here" in run.stdout
    assert "ansible-galaxy collection install awx.awx" in run.stdout


def test_nothing_secret_is_shown(made: Made) -> None:
    for secret in SECRETS:
        assert secret not in made.first.stdout + made.first.stderr


def test_templates_ask_for_what_roles_take(made: Made) -> None:
    templates = made.awx.named("job_templates")
    assert {name.rpartition(": ")[2] for name in templates} == {
        "backup", "list", "prune", "delete", "hold", "restore", "verify"
    }  # fmt: skip
    for name, template in templates.items():
        playbook = name.rpartition(": ")[2]
        assert (ROOT / template["playbook"]).exists()
        survey = made.awx.related["job_templates", template["id"], "survey_spec"]
        for question in survey["spec"]:
            if question["variable"] == "node":
                continue
            short = question["variable"].removeprefix("vmforge_backup_").removeprefix(f"{playbook}_")
            option = options(playbook)[short]
            if question["type"] == "multiplechoice":
                assert question["default"] in question["choices"]
                assert set(question["choices"]) <= {str(choice) for choice in option.get("choices", ("true", "false"))}
                assert str(option["default"]).lower() == question["default"]


def test_keys_that_delete_go_to_what_deletes(made: Made) -> None:
    for name, template in made.awx.named("job_templates").items():
        attached = made.awx.names_of("credentials", template, "credentials")
        assert "login to the nodes" in attached
        assert ("VMForge backup: s3_delete" in attached) is name.endswith((": prune", ": delete"))
        assert made.awx.names_of("notification_templates", template, "notification_templates_error") == [
            "mail to the operators"
        ]


def test_secrets_reach_a_job_as_a_file_of_variables(made: Made) -> None:
    for name, kind in made.awx.named("credential_types").items():
        fields = {field["id"]: field for field in kind["inputs"]["fields"]}
        assert set(kind["injectors"]) == {"extra_vars"}
        injected = kind["injectors"]["extra_vars"]
        assert sorted(injected.values()) == sorted("{{ " + field + " }}" for field in fields)
        assert all(fields[field].get("secret") for field in fields if field != "access_key")
        inputs = made.awx.named("credentials")[name]["inputs"]
        assert set(inputs) == set(fields)
        for variable, value in injected.items():
            assert VARIABLES[variable] == inputs[value.strip("{} ")]


def test_schedules_leave_no_question_open(made: Made) -> None:
    templates = {item["id"]: item for item in made.awx.objects["job_templates"]}
    schedules = made.awx.objects["schedules"]
    assert {templates[item["unified_job_template"]]["name"].rpartition(": ")[2] for item in schedules} == {
        "backup", "prune", "verify"
    }  # fmt: skip
    for schedule in schedules:
        assert re.fullmatch(r"DTSTART;TZID=UTC:\d{8}T\d{6} RRULE:FREQ=\w+;INTERVAL=1(;BYDAY=SU)?", schedule["rrule"])
        survey = made.awx.related["job_templates", schedule["unified_job_template"], "survey_spec"]["spec"]
        assert {item["variable"] for item in survey if item["required"]} <= set(schedule["extra_data"])


def test_the_inventory_comes_from_a_file_of_the_project(made: Made) -> None:
    [source] = made.awx.objects["inventory_sources"]
    assert (source["source"], source["source_path"]) == ("scm", "inventory/vmforge.yml")
    assert source["source_project"] == made.awx.named("projects")["VMForge backup"]["id"]
    assert json.loads(made.awx.named("inventories")["VMForge"]["variables"]) == {"vmforge_backup_offsite": "s3"}
