# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual environments of a checkout, made with uv; and the link that makes it importable as a collection.

Only the standard library and the distribution's ``python3-venv`` are needed to start with.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SYSTEM_PYTHON = Path("/usr/bin/python3")
UNIT_PYTHONS = ("3.9", "3.11", "3.13")
CORES = ("2.19", "2.21")
# ansible-core -> the oldest Python that runs it.
_CORE_PYTHON = {"2.19": (3, 11), "2.21": (3, 12)}


@dataclass(frozen=True)
class Environment:
    """A virtual environment at ``.venv-<name>``."""

    name: str
    python: Path
    requirements: tuple[str, ...]
    system_packages: bool = False

    @property
    def path(self) -> Path:
        """Where it is."""
        return ROOT / f".venv-{self.name}"

    def bin(self, program: str) -> str:
        """Return the path of a program in it."""
        return str(self.path / "bin" / program)

    def make(self) -> Environment:
        """Make it, unless it is there with exactly these requirements."""
        stamp = self.path / "made-from"
        wanted = hashlib.sha256(repr((self, _contents(self.requirements))).encode()).hexdigest()
        if stamp.exists() and stamp.read_text() == wanted:
            return self
        site = ["--system-site-packages"] if self.system_packages else []
        _uv("venv", "--clear", *site, "-p", str(self.python), str(self.path))
        _uv("pip", "install", "-p", self.bin("python"), *self.requirements)
        stamp.write_text(wanted)
        return self


def _contents(requirements: tuple[str, ...]) -> list[str]:
    return [(ROOT / name).read_text() for name in requirements if name.endswith(".txt")]


@lru_cache(maxsize=1)
def uv() -> Path:
    """Return the path of uv, installed for this checkout on first use."""
    home = ROOT / ".venv-uv"
    program = home / "bin" / "uv"
    if not program.exists():
        _run([str(SYSTEM_PYTHON), "-m", "venv", str(home)])
        _run([str(home / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", "uv"])
    return program


def _uv(*argv: str) -> None:
    # Its cache lies in the checkout, so that "make clean" removes all, and links instead of copying.
    env = dict(os.environ, UV_PYTHON_DOWNLOADS="never", UV_CACHE_DIR=str(ROOT / ".cache" / "uv"), UV_NO_PROGRESS="1")
    _run([str(uv()), "-q", *argv], env)


def _run(argv: list[str], env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        argv, cwd=ROOT, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} failed ({done.returncode}):\n{done.stdout}{done.stderr}")


@lru_cache(maxsize=1)
def pythons() -> dict[str, Path]:
    """Find real interpreters by version ("3.11"): on PATH but for pyenv's shims, the system's own, and pyenv's."""
    places = [SYSTEM_PYTHON.parent]
    places += [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry and "shims" not in entry]
    places += sorted((Path.home() / ".pyenv" / "versions").glob("*/bin"), reverse=True)
    found: dict[str, Path] = {}
    for place in places:
        for path in sorted(place.glob("python3.*")):
            match = re.fullmatch(r"python(3\.\d+)", path.name)
            if match and match.group(1) not in found and ROOT not in path.parents and os.access(path, os.X_OK):
                found[match.group(1)] = path
    return found


def system_version() -> str:
    """Return the version of the distribution's Python, such as "3.11"."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([str(SYSTEM_PYTHON), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def _newest(least: tuple[int, int]) -> Path | None:
    """Return the newest Python of those that the tools are known to run on."""
    known = [f"3.{minor}" for minor in (13, 12, 11) if (3, minor) >= least]
    return next((pythons()[version] for version in known if version in pythons()), None)


def lint_environment() -> Environment:
    """Everything that checks without running."""
    python = _newest((3, 11))
    if python is None:
        raise SystemExit("lint needs a Python 3.11 or newer; found " + ", ".join(sorted(pythons())))
    return Environment("lint", python, ("ansible-core>=2.19,<2.22", "-r", "requirements/lint.txt"))


def docs_environment() -> Environment:
    """What builds the documentation site."""
    python = _newest((3, 12))
    if python is None:
        raise SystemExit("docs needs a Python 3.12 or newer; found " + ", ".join(sorted(pythons())))
    return Environment("docs", python, ("ansible-core>=2.19,<2.22", "-r", "requirements/docs.txt"))


def _system_cryptography() -> tuple[str, ...]:
    """Keep to the distribution's version: a newer one would break its pyOpenSSL, on which its boto3 builds."""
    code = "import importlib.metadata as m; print(m.version('cryptography'))"
    asked = subprocess.run([str(SYSTEM_PYTHON), "-c", code], capture_output=True, text=True, check=False)
    return () if asked.returncode else (f"cryptography=={asked.stdout.strip()}",)


def core_environment(core: str) -> Environment | None:
    """One ansible-core; None if no Python here runs it. The oldest core shares the system's Python and libraries."""
    name, requirement = f"core-{core}", f"ansible-core=={core}.*"
    if core == CORES[0]:
        wanted = (requirement, *_system_cryptography(), "-r", "requirements/test.txt")
        return Environment(name, SYSTEM_PYTHON, wanted, system_packages=True)
    python = _newest(_CORE_PYTHON[core])
    # PyMySQL: for the inventory from the database.
    return Environment(name, python, (requirement, "pymysql")) if python else None


def molecule_environment() -> Environment:
    """Molecule with the oldest core, beside what the test bed needs."""
    wanted = (f"ansible-core=={CORES[0]}.*", *_system_cryptography(), "-r", "requirements/molecule.txt")
    return Environment("molecule", SYSTEM_PYTHON, (*wanted, "-r", "requirements/test.txt"), system_packages=True)


def ui_environment() -> Environment:
    """The pages of the role ui as on a master, the oldest core, and a browser's driver."""
    wanted = ("-r", "roles/ui/files/requirements.txt", "-r", "requirements/ui.txt")
    return Environment("ui", SYSTEM_PYTHON, (f"ansible-core=={CORES[0]}.*", *wanted))


def unit_environment(version: str) -> Environment | None:
    """Unit tests under one Python: the distribution's with its libraries, any other with the newest from PyPI."""
    if version == system_version():
        return core_environment(CORES[0])
    python = pythons().get(version)
    if python is None:
        return None
    libraries = ("ansible-core", "boto3", "zstandard", "-r", "requirements/test.txt")
    return Environment(f"unit-{version}", python, libraries)


def link() -> Path:
    """Make ``.collections/ansible_collections/vmforge/backup`` lead here; the path to give to Ansible."""
    collections = ROOT / ".collections"
    place = collections / "ansible_collections" / "vmforge" / "backup"
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        with contextlib.suppress(FileExistsError):
            place.symlink_to(Path("../../.."))
    return collections


def main(argv: list[str]) -> None:
    """``link``; or ``exec ARGUMENTS``, which runs the system's Python with libraries and tools of the tests."""
    if argv[:1] not in (["link"], ["exec"]):
        raise SystemExit("usage: environments.py link | exec PYTHON-ARGUMENTS")
    link()
    if argv[0] == "exec":
        environment = core_environment(CORES[0])
        assert environment is not None
        os.chdir(ROOT)
        python = environment.make().bin("python")
        # Here and in what it starts, the checkout is importable as the collection.
        os.execve(python, [python, *argv[1:]], dict(os.environ, PYTHONPATH=str(link())))


if __name__ == "__main__":
    main(sys.argv[1:])
