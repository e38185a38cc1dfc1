# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``vmforge-backup``: a thin front of the playbooks, with exit codes for scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ansible_collections.vmforge.backup.plugins.plugin_utils._command_line import (
    Command,
    UsageError,
    completion,
    parse,
    to_yaml,
)

DONE, USAGE, NOT_FOUND, FAILED = 0, 1, 2, 3
_NOT_FOUND_RESULT, _NOT_FOUND_CODE = "not found", "not_found"
# They say themselves which machine was not found; after the others the list is asked.
_TELL_THEMSELVES = ("run", "verify", "policy", "status")


@dataclass(frozen=True)
class Setup:
    """Where things are on this host.

    Attributes:
        bin: The directory of ``ansible-playbook``.
        config: Of Ansible; it names the inventory.
        collections: Where this collection lies.
        arguments: More of ``ansible-playbook``, such as a file of secrets.
    """

    bin: Path
    config: Path
    collections: Path
    arguments: Sequence[str] = ()


def installed() -> Setup:
    """What the role ``schedule`` installed; the program that it wrote says where."""
    home = Path(os.environ["VMFORGE_BACKUP_HOME"])
    arguments = json.loads(os.environ.get("VMFORGE_BACKUP_ARGUMENTS", "[]"))
    return Setup(home / "venv" / "bin", home / "ansible.cfg", home / "collections", arguments)


@dataclass(frozen=True)
class End:
    """How a playbook ended.

    Attributes:
        code: Of ``ansible-playbook``.
        report: Its table, empty where none was printed.
        failures: Each with ``host``, ``msg`` and ``code``.
    """

    code: int
    report: Mapping[str, Any]
    failures: Sequence[Mapping[str, Any]]


def main(setup: Setup, argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    try:
        command = parse(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    if command.name == "completion":
        sys.stdout.write(completion())
        return DONE
    try:
        end = _play(setup, command, sys.stderr if command.json else sys.stdout)
    except KeyboardInterrupt:
        sys.stderr.write("vmforge-backup: what was begun goes on. vmforge-backup status shows it.\n")
        return FAILED
    if command.json:
        json.dump({**end.report, "failures": list(end.failures)}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    return _exit_code(setup, command, end)


def _exit_code(setup: Setup, command: Command, end: End) -> int:
    rows = end.report.get("rows") or []
    if any(row.get("result") == _NOT_FOUND_RESULT for row in rows):
        return NOT_FOUND
    if end.code == 0:
        return NOT_FOUND if command.name == "list" and command.vms and not rows else DONE
    if command.name == "policy" and any(failure.get("code") == _NOT_FOUND_CODE for failure in end.failures):
        return NOT_FOUND
    if command.vms and command.name not in (*_TELL_THEMSELVES, "list") and _is_unknown(setup, command):
        return NOT_FOUND
    return FAILED


def _is_unknown(setup: Setup, command: Command) -> bool:
    """Whether no backup of any of these machines is anywhere, and all could be asked."""
    question = Command("list", "list", command.vms, {"vm": list(command.vms)}, more=command.more)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        end = _play(setup, question, nowhere, errors=nowhere)
    return end.code == 0 and not end.report.get("rows")


def _play(setup: Setup, command: Command, output: TextIO, errors: TextIO | None = None) -> End:
    with tempfile.TemporaryDirectory(prefix="vmforge-backup-") as name:
        place = Path(name)
        report, failures, variables = place / "report.json", place / "failures", place / "variables.yml"
        variables.write_text(
            to_yaml({**command.variables, "vmforge_backup_report_file": str(report)}), encoding="utf-8"
        )
        argv = [str(setup.bin / "ansible-playbook"), f"vmforge.backup.{command.playbook}"]
        argv += ["--check", "--diff"] if command.check else []
        argv += [f"-{'v' * command.verbose}"] if command.verbose else []
        output.flush()
        done = subprocess.run(
            # The last one counts: what was typed.
            [*argv, *setup.arguments, *command.more, "-e", f"@{variables}"],
            env=_environment(setup, command, failures),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            check=False,
        )
        lines = failures.read_text(encoding="utf-8").splitlines() if failures.exists() else []
        return End(
            done.returncode,
            json.loads(report.read_text(encoding="utf-8")) if report.exists() else {},
            [json.loads(line) for line in lines],
        )


def _environment(setup: Setup, command: Command, failures: Path) -> dict[str, str]:
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "ANSIBLE_CONFIG": str(setup.config),
        "ANSIBLE_COLLECTIONS_PATH": str(setup.collections),
        "LC_ALL": "C.UTF-8",
        "PATH": f"{setup.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "VMFORGE_BACKUP_FAILURES_FILE": str(failures),
    }
    if not command.verbose:
        environment["ANSIBLE_STDOUT_CALLBACK"] = "vmforge.backup.quiet"
    return environment


if __name__ == "__main__":
    sys.exit(main(installed()))
