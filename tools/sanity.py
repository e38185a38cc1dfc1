# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prepares ``ansible-test sanity``: a copy of what ships where it accepts one, Pythons, and pip where it looks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from environments import ROOT, UNIT_PYTHONS, Environment, pythons

# ansible-test fetches pip's bootstrap script from a fixed address unless it finds it in its cache. This one installs
# pip from its own wheel, which the package registry has; it is never written over what is there.
_BOOTSTRAP = """\
import pathlib, sys
wheel = next(pathlib.Path(__file__).resolve().parent.glob("pip-{version}-*.whl"))
sys.path.insert(0, str(wheel))
from pip._internal.cli.main import main
argv = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.exit(main(["install", "--no-index", "--find-links", str(wheel.parent), *argv]))
"""


@dataclass(frozen=True)
class Sanity:
    """How to run it."""

    argv: list[str]
    directory: Path
    env: dict[str, str]


def prepare_sanity(environment: Environment) -> Sanity:
    """Copy the checkout and seed pip; the command to run."""
    _seed_pip(environment)
    directory = _copy(ROOT / ".cache" / "sanity" / "ansible_collections" / "vmforge" / "backup")
    path = [str(_interpreters()), str(environment.path / "bin"), "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    argv = [environment.bin("ansible-test"), "sanity", "--color", "no", "--truncate", "0"]
    return Sanity(argv=argv, directory=directory, env={"PATH": os.pathsep.join(path)})


def _copy(target: Path) -> Path:
    """Copy what git knows, or would take: ansible-test wants a real directory of the collection's own name.

    Not the tests: galaxy.yml leaves them out, and pylint would take as long for them as for all that ships.
    """
    shutil.rmtree(target, ignore_errors=True)
    argv = ["git", "ls-files", "-co", "--exclude-standard", "-z", "--", ".", ":!tests"]
    for name in subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
        source = ROOT / name
        if name and source.exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    # A repository of its own, so that it does not take the ignored directory of this one for its own.
    subprocess.run(["git", "init", "-q"], cwd=target, check=True)
    return target


def _interpreters() -> Path:
    """Fill a directory with links to the Pythons that are promised, for compile and import under each."""
    place = ROOT / ".cache" / "sanity" / "pythons"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for version, path in pythons().items():
        if version in UNIT_PYTHONS:
            (place / f"python{version}").symlink_to(path)
    return place


def _seed_pip(environment: Environment) -> None:
    """Put a bootstrap script for the pip that this ansible-test wants into its cache."""
    code = "import ansible_test, pathlib; print(pathlib.Path(list(ansible_test.__path__)[0]))"
    python = environment.bin("python")
    where = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    text = (Path(where) / "_internal" / "python_requirements.py").read_text()
    found = re.search(r"default_packages = dict\(\s*pip='([\d.]+)'", text)
    if not found:
        return
    version = found.group(1)
    cache = Path.home() / ".ansible" / "test" / "cache"
    script = cache / f"get_pip_{version.replace('.', '_')}.py"
    if script.exists():
        return
    cache.mkdir(parents=True, exist_ok=True)
    pip = ROOT / ".venv-uv" / "bin" / "pip"
    subprocess.run([str(pip), "download", "-q", "--no-deps", "-d", str(cache), f"pip=={version}"], check=True)
    script.write_text(_BOOTSTRAP.format(version=version))
