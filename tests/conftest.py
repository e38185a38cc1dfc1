# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the checkout importable as ``ansible_collections.vmforge.backup``, wherever it lies; fixtures for all tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.bed", "tests.integration")

from tests.bed.ansible import Ansible, found_cores
from tests.bed.guest import scratch_directory
from tests.bed.hypervisor import system_libvirt

ROOT = Path(__file__).resolve().parents[1]
# How fast an example is says something of the machine and what else runs on it, nothing of the code.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fewer", settings.get_profile("any speed"), max_examples=20)
settings.load_profile("any speed")


def _package(name: str, *paths: str) -> None:
    module = ModuleType(name)
    module.__path__ = list(paths)
    sys.modules[name] = module


if "ansible_collections.vmforge.backup" not in sys.modules:
    _package("ansible_collections")
    _package("ansible_collections.vmforge")
    _package("ansible_collections.vmforge.backup", str(ROOT))


@pytest.fixture(scope="session", params=found_cores(), ids=lambda core: f"core-{core.version}")
def ansible(request: pytest.FixtureRequest) -> Ansible:
    """Each ansible-core that was found, in turn."""
    core: Ansible = request.param
    return core


@pytest.fixture(scope="session")
def libvirt_daemon() -> Iterator[None]:
    """libvirt, started for the session if it was not running."""
    with system_libvirt():
        yield


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that QEMU's own user may enter, which pytest's ``tmp_path`` is not."""
    with scratch_directory("test") as path:
        yield path
