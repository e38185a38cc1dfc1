# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the documentation site into ``build/docs``: the pages of ``docs/``, and the reference by antsibull-docs."""

from __future__ import annotations

import os
import shutil
import subprocess

from environments import ROOT, Environment, docs_environment, link

SOURCE = ROOT / ".cache" / "docs"
TARGET = ROOT / "build" / "docs"
COLLECTION = "vmforge.backup"


def main() -> None:
    environment = docs_environment().make()
    _lay_out_pages()
    reference = SOURCE / "collections"
    reference.mkdir()
    _run(
        environment,
        "antsibull-docs",
        *("collection", "--use-current", "--squash-hierarchy", "--fail-on-error"),
        *("--dest-dir", str(reference), COLLECTION),
    )
    shutil.rmtree(TARGET, ignore_errors=True)
    _run(environment, "sphinx-build", "-q", "-b", "html", "-n", "-W", "--keep-going", str(SOURCE), str(TARGET))
    print(TARGET / "index.html")


def _lay_out_pages() -> None:
    """Copy what Sphinx reads to one place, so that nothing is made inside docs/."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    # The files of the site itself lie below, for people who read docs/ in the repository need none of them.
    shutil.copytree(ROOT / "docs", SOURCE, ignore=shutil.ignore_patterns("site", "__pycache__"))
    for path in (ROOT / "docs" / "site").glob("*.*"):
        shutil.copy(path, SOURCE)
    shutil.copy(ROOT / "CONTRIBUTING.md", SOURCE / "contributing.md")


def _run(environment: Environment, program: str, *argv: str) -> None:
    path = f"{environment.path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"
    env = {**os.environ, "PATH": path, "ANSIBLE_COLLECTIONS_PATH": str(link())}
    done = subprocess.run(
        [environment.bin(program), *argv],
        cwd=SOURCE,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # antsibull-docs ends with 0 whatever it warns of.
    if done.returncode or "WARNING" in done.stdout or "ERROR" in done.stdout:
        raise SystemExit(f"{program} ({done.returncode}):\n{done.stdout.replace(str(SOURCE), 'docs')}")


if __name__ == "__main__":
    main()
