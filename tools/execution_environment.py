# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proves that the collection's archive makes an execution environment with all that it needs; no image is built."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from environments import ROOT, Environment

_NEEDS = ("meta/ee-requirements.txt", "meta/ee-bindep.txt")


def check_execution_environment(environment: Environment, archive: str, place: Path) -> str:
    """Install the archive, make the context of the example in ``docs/awx.md``, and read what ansible-builder finds.

    Returns:
        What ansible-builder would install.

    Raises:
        SystemExit: Something does not work, or a dependency is not found.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    galaxy, builder = environment.bin("ansible-galaxy"), environment.bin("ansible-builder")
    _run([galaxy, "collection", "install", "--offline", "-p", str(place), archive], place)
    [definition] = re.findall(r"^```yaml\n(version: 3\n.*?)^```", _page(), re.MULTILINE | re.DOTALL)
    (place / "execution-environment.yml").write_text(definition)
    _run([builder, "create", "--context", "context"], place)
    if "vmforge.backup" not in (place / "context" / "_build" / "requirements.yml").read_text():
        raise SystemExit(f"{place}/context has no vmforge.backup among its collections")
    found = _run([builder, "introspect", "--sanitize", str(place)], place)
    for line in [line for name in _NEEDS for line in (ROOT / name).read_text().splitlines()]:
        if not line.startswith("#") and line not in found:
            raise SystemExit(f"ansible-builder does not find {line}:\n{found}")
    return found


def _page() -> str:
    return (ROOT / "docs" / "awx.md").read_text()


def _run(argv: list[str], place: Path) -> str:
    done = subprocess.run(argv, cwd=place, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    return done.stdout
