# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs playbooks and modules as people do, with one of the ansible-cores that were found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bed import warm

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Ansible:
    """One ansible-core.

    Attributes:
        version: Such as ``2.19``.
        bin: The directory of its programs.
    """

    version: str
    bin: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def run(
        self, *argv: str, env: Mapping[str, str] | None = None, timeout: float = 1800, anew: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run one of its programs in the checkout, with the checkout's ``ansible.cfg``; a failure is not raised.

        Args:
            anew: Start it as people do, not off a process that has Ansible loaded.
        """
        full = {
            "HOME": os.environ.get("HOME", "/root"),
            "LANG": "C.UTF-8",
            "PATH": f"{self.bin}:{SYSTEM_PATH}",
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            **self.env,
            **(env or {}),
        }
        if argv[0] in warm.PROGRAMS and not anew:
            return warm.run(self.bin / argv[0], argv[1:], full, cwd=ROOT, timeout=timeout)
        return subprocess.run(
            [str(self.bin / argv[0]), *argv[1:]],
            cwd=ROOT,
            env=full,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )

    def playbook(
        self,
        playbook: str | Path,
        *argv: str,
        variables: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 1800,
        anew: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook of the checkout with extra variables, given as people give them: with ``-e``."""
        extra = ["-e", json.dumps(dict(variables))] if variables else []
        return self.run("ansible-playbook", str(playbook), *extra, *argv, env=env, timeout=timeout, anew=anew)

    def module(self, name: str, *argv: str, timeout: float = 1800, **args: Any) -> dict[str, Any]:
        """Run one module of the collection on this machine, under the system's Python; its result."""
        options = ["-i", "localhost,", "-c", "local", "-e", "ansible_python_interpreter=/usr/bin/python3"]
        done = self.run(
            "ansible",
            "localhost",
            *options,
            "-m",
            f"vmforge.backup.{name}",
            "-a",
            json.dumps(args),
            *argv,
            env={"ANSIBLE_LOAD_CALLBACK_PLUGINS": "1", "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.json"},
            timeout=timeout,
        )
        return _result(done)


def _result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    text = done.stdout
    start = text.find("{")
    if start < 0:
        raise AssertionError(f"no result: {done.stdout}{done.stderr}")
    result: dict[str, Any] = json.loads(text[start : text.rindex("}") + 1])
    return result


def found_cores() -> Sequence[Ansible]:
    """List what ``make integration`` found (``VMFORGE_ANSIBLE_CORES``); else the one beside this Python or on PATH."""
    listed = os.environ.get("VMFORGE_ANSIBLE_CORES", "")
    if listed:
        pairs = (entry.split("=", 1) for entry in listed.split(os.pathsep))
        return [Ansible(version=version, bin=Path(path) / "bin") for version, path in pairs]
    beside = Path(sys.executable).parent
    if (beside / "ansible-playbook").exists():
        return [Ansible(version="this", bin=beside)]
    program = shutil.which("ansible-playbook")
    return [Ansible(version="path", bin=Path(program).parent)] if program else []
