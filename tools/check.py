# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the checks of a checkout: ``check.py lint unit integration exhaustive``, in the order given, or ``build`` alone.

Independent steps run side by side; each says when it starts, when it is done and how long it took, and shows its
output only if it failed (tests always show their summary).
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from environments import (
    CORES,
    ROOT,
    UNIT_PYTHONS,
    Environment,
    core_environment,
    link,
    lint_environment,
    molecule_environment,
    pythons,
    system_version,
    ui_environment,
    unit_environment,
)
from execution_environment import check_execution_environment
from sanity import prepare_sanity

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.bed.awx import awx_collections
from tests.bed.hypervisor import system_libvirt

# More than cores: much of the time is waiting for guests and hosts.
_JOBS = 4
_WEIGHTS = {"fleet": 300, "roles": 300, "engine": 300, "database": 100, "s3": 100, "ui": 90}
_SHARES = {"engine": 4, "roles": 2}
CACHE = ROOT / ".cache"
PACKAGE = "ansible_collections.vmforge.backup"
_UI_PATH = os.pathsep.join(str(ROOT / part) for part in (".collections", "roles/ui/files"))
# Hundreds of processes start here: what they import is compiled once, and outside the tree that is being judged.
_COMPILED = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(CACHE / "pycache")}
_QUIET = {"ANSIBLE_NOCOLOR": "1", "PY_COLORS": "0", "NO_COLOR": "1", **_COMPILED}


@dataclass(frozen=True)
class Step:
    """One thing to run.

    Attributes:
        name: What people read.
        argv: The program; or a function, which raises SystemExit or returns what is to be shown.
        summary: A pattern of lines to show even on success.
        weight: About how many seconds it takes beside others, where that is long.
    """

    name: str
    argv: Sequence[str] | Callable[[], str]
    cwd: Path = ROOT
    env: dict[str, str] = field(default_factory=dict)
    summary: str = ""
    weight: int = 0

    def run(self) -> tuple[bool, str, str]:
        """Run it: whether it passed, its output, how long it took."""
        begun, processor = time.monotonic(), ""
        if callable(self.argv):
            try:
                passed, output = True, self.argv()
            except SystemExit as error:
                passed, output = False, str(error)
        else:
            env = {**os.environ, **_QUIET, **self.env}
            with subprocess.Popen(
                list(self.argv),
                cwd=self.cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process:
                assert process.stdout
                output = process.stdout.read()
                # Of it and all that it waited for; guests and servers that libvirtd or systemd started are not in it.
                _pid, status, used = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            passed, processor = process.returncode == 0, f", {used.ru_utime + used.ru_stime:.0f} s of CPU"
        return passed, output, f"{time.monotonic() - begun:.1f} s{processor}"


@dataclass
class Count:
    """Tests of all pytest runs together."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, output: str) -> None:
        """Add what a run's closing line says."""
        closing = re.findall(_PYTEST_SUMMARY, output, re.MULTILINE)[-1:]
        for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", "".join(closing)):
            name = "failed" if word == "error" else word
            setattr(self, name, getattr(self, name) + int(number))

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


COUNT = Count()
_PYTEST_SUMMARY = r"^(?:SKIPPED.*|.*\d+ (?:passed|failed|error).* in .*)$"
_PYTEST_SLOWEST = r"^\d+\.\d+s (?:call|setup|teardown) .*$"


def say(text: str) -> None:
    print(text, flush=True)


def run_steps(steps: Iterable[Step]) -> bool:
    """Run independent steps, a few at a time, the longest first: what is short fills the time beside them."""
    failed = []
    with ThreadPoolExecutor(max_workers=_JOBS) as pool:
        running = {pool.submit(step.run): step for step in sorted(steps, key=lambda step: -step.weight)}
        for future in as_completed(running):
            step = running[future]
            passed, output, took = future.result()
            say(f"   {'ok    ' if passed else 'FAILED'} {step.name} ({took})")
            if step.summary:
                COUNT.add(output)
            if not passed:
                failed.append(step.name)
                say(output.rstrip())
            elif step.summary:
                for line in re.findall(step.summary, output, re.MULTILINE):
                    say(f"          {line}")
    say(f"== {'FAILED: ' + ', '.join(failed) if failed else 'All passed'}")
    return not failed


def make_environments(environments: Iterable[Environment | None]) -> None:
    begun = time.monotonic()
    wanted = {environment.name: environment for environment in environments if environment}
    say(f"== Virtual environments: {', '.join(wanted)}")
    for environment in wanted.values():
        environment.make()
    link()
    say(f"== Virtual environments: ready ({time.monotonic() - begun:.0f} s)")


def _collection_env(environment: Environment) -> dict[str, str]:
    """Find this checkout as the collection, and the environment's own programs first; no pyenv shims."""
    path = [
        str(environment.path / "bin"),
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    return {"PATH": os.pathsep.join(path), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections")}


def _lint_env(environment: Environment) -> dict[str, str]:
    """What judges the role ``awx`` has to find awx.awx, which nothing else needs."""
    env = _collection_env(environment)
    return {**env, "ANSIBLE_COLLECTIONS_PATH": f"{env['ANSIBLE_COLLECTIONS_PATH']}{os.pathsep}{awx_collections()}"}


def build(environment: Environment) -> str:
    """Build the collection's archive into ``build/``; its path."""
    for old in (ROOT / "build").glob("*.tar.gz"):
        old.unlink()
    argv = [environment.bin("ansible-galaxy"), "collection", "build", "--output-path", "build", "."]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return str(next((ROOT / "build").glob("*.tar.gz")))


def _import_archive(environment: Environment) -> str:
    """Build, and let galaxy-importer judge: what a Galaxy server does with an upload; then ansible-builder."""
    archive = build(environment)
    check_execution_environment(environment, archive, CACHE / "execution-environment")
    config = CACHE / "galaxy-importer.cfg"
    config.parent.mkdir(exist_ok=True)
    # ansible-lint is a step of its own, with more rules. Here a busy machine would make it run out of time.
    checks = ("RUN_ANSIBLE_TEST = False", "RUN_ANSIBLE_LINT = False", "CHECK_REQUIRED_TAGS = True")
    config.write_text("\n".join(["[galaxy-importer]", *checks, ""]))
    env = {**os.environ, **_QUIET, **_lint_env(environment), "GALAXY_IMPORTER_CONFIG": str(config)}
    argv = [environment.bin("python"), "-m", "galaxy_importer.main", archive]
    done = subprocess.run(
        argv, cwd=CACHE, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    output = done.stdout + done.stderr
    if done.returncode or re.search(r"\b(ERROR|WARNING)\b", output):
        raise SystemExit(output)
    return output


def lint() -> list[Step]:
    """Everything that checks without running."""
    environment, ui = lint_environment(), ui_environment()
    make_environments([environment, ui])
    env = _lint_env(environment)
    sanity = prepare_sanity(environment)
    types = [environment.bin("mypy"), "--python-executable", ui.bin("python"), "--cache-dir", ".cache/mypy-ui"]
    return [
        Step("ansible-test sanity", sanity.argv, cwd=sanity.directory, env=sanity.env, weight=150),
        Step("ruff check", [environment.bin("ruff"), "check", "--output-format", "concise", "."]),
        Step("ruff format", [environment.bin("ruff"), "format", "--check", "."]),
        Step("mypy --strict", [environment.bin("mypy"), "-p", f"{PACKAGE}.plugins.module_utils"]),
        Step("mypy --strict, ui", [*types, "-p", "vmforge_backup_ui"], env={"MYPYPATH": _UI_PATH}),
        Step("antsibull-changelog", [environment.bin("antsibull-changelog"), "lint"]),
        Step(
            "antsibull-docs",
            [environment.bin("antsibull-docs"), "lint-collection-docs", "--plugin-docs", "--skip-rstcheck", "."],
            env=env,
        ),
        Step("ansible-lint", [environment.bin("ansible-lint"), "--offline", "--profile", "production"], env=env),
        Step("galaxy-importer", lambda: _import_archive(environment)),
    ]


def _pytest(environment: Environment, *argv: str, **env: str) -> tuple[list[str], dict[str, str]]:
    return [environment.bin("python"), "-m", "pytest", "-q", *argv], {**_collection_env(environment), **env}


def unit() -> list[Step]:
    """The unit tests, under every supported Python."""
    found = {version: unit_environment(version) for version in UNIT_PYTHONS}
    for version, environment in found.items():
        if environment is None:
            say(f"== Unit: no Python {version} here: found {', '.join(sorted(pythons()))}")
    ui = ui_environment()
    make_environments([*found.values(), ui])
    argv, env = _pytest(ui, "-o", "cache_dir=.cache/pytest-unit-ui", "tests/unit/ui")
    steps = [Step("pytest, ui", argv, env=env, summary=_PYTEST_SUMMARY)]
    for version, environment in found.items():
        if environment:
            # What needs libvirt, libnbd or QEMU runs where the distribution's bindings are.
            marks = (
                []
                if version == system_version()
                else ["-m", "not (system or once or exhaustive)", "--hypothesis-profile=fewer"]
            )
            cache = ["-o", f"cache_dir=.cache/pytest-{version}"]
            argv, env = _pytest(environment, *marks, *cache, "tests/unit")
            steps.append(Step(f"pytest, Python {version}", argv, env=env, summary=_PYTEST_SUMMARY))
    return steps


def integration() -> list[Step]:
    """Guests, servers and hosts, with every supported ansible-core. They need libvirt."""
    cores = {core: core_environment(core) for core in CORES}
    for core, environment in cores.items():
        if environment is None:
            say(f"== Integration: no Python here runs ansible-core {core}: found {', '.join(sorted(pythons()))}")
    modern = unit_environment(UNIT_PYTHONS[-1])
    molecule, ui = molecule_environment(), ui_environment()
    make_environments([*cores.values(), modern, molecule, ui])
    system = cores[CORES[0]]
    assert system is not None
    found = [f"{core}={environment.path}" for core, environment in cores.items() if environment]
    steps = []
    for name, tests in _shares():
        suited = ui if tests[0].parent.name == "ui" else system
        argv, env = _pytest(suited, "--durations=12", "-o", f"cache_dir=.cache/pytest-{name}", *map(str, tests))
        env["VMFORGE_ANSIBLE_CORES"] = os.pathsep.join(found)
        weight = _WEIGHTS.get(tests[0].parent.name, 0)
        steps.append(
            Step(f"pytest, {name}", argv, env=env, summary=f"{_PYTEST_SUMMARY}|{_PYTEST_SLOWEST}", weight=weight)
        )
    if modern and modern is not system:
        steps.append(_newest_boto3(modern, "s3 and not (once or exhaustive)"))
    return [*steps, _fleet(molecule)]


def _newest_boto3(environment: Environment, marks: str) -> Step:
    argv, env = _pytest(environment, "-m", marks, "-o", "cache_dir=.cache/pytest-boto3", "tests/integration/s3")
    return Step("pytest, s3 with the newest boto3", argv, env=env, summary=_PYTEST_SUMMARY)


def _fleet(molecule: Environment, **variables: str) -> Step:
    argv = [molecule.bin("molecule"), "test", "-s", "fleet"]
    return Step("molecule, fleet", argv, env={**_collection_env(molecule), **variables}, weight=_WEIGHTS["fleet"])


def exhaustive() -> list[Step]:
    """The fleet scenario, and S3 with the newest boto3, with all that ``make test`` leaves out."""
    molecule, modern = molecule_environment(), unit_environment(UNIT_PYTHONS[-1])
    make_environments([molecule, modern])
    steps = [_newest_boto3(modern, "s3 and (once or exhaustive)")] if modern else []
    return [*steps, _fleet(molecule, VMFORGE_EXHAUSTIVE="yes")]


def _shares() -> list[tuple[str, list[Path]]]:
    """The integration tests by directory: guests and servers of one are not those of another. Long ones in shares."""
    directories = sorted({path.parent for path in (ROOT / "tests" / "integration").glob("*/test_*.py")})
    found = []
    for directory in directories:
        files = sorted(directory.glob("test_*.py"), key=lambda path: (-path.stat().st_size, path.name))
        count = _SHARES.get(directory.name, 1)
        for number in range(count):
            name = directory.name if count == 1 else f"{directory.name} {number + 1} of {count}"
            found.append((name, files[number::count]))
    return found


def main(wanted: Sequence[str]) -> int:
    begun = time.monotonic()
    checks = {"lint": lint, "unit": unit, "integration": integration, "exhaustive": exhaustive}
    if wanted == ["build"]:
        environment = lint_environment()
        make_environments([environment])
        say(build(environment))
        return 0
    if not wanted or set(wanted) - set(checks):
        raise SystemExit(f"usage: check.py {' '.join(checks)} | build")
    steps = [step for name in wanted for step in checks[name]()]
    # One libvirtd for all: whichever of them started it would stop it under the others.
    with system_libvirt() if "integration" in wanted else contextlib.nullcontext():
        # All of them, even after a failure: one run tells everything.
        passed = run_steps(steps)
    say(f"== {', '.join(wanted)}: {time.monotonic() - begun:.0f} s")
    if {"unit", "integration"} & set(wanted):
        say(f"Tests: {COUNT}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
