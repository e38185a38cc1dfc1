# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documentation names exists: pages, anchors, variables, playbooks, roles, modules, targets of make."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._backup_set import ANCESTOR, Backup
from ansible_collections.vmforge.backup.plugins.module_utils._model import format_id
from ansible_collections.vmforge.backup.plugins.module_utils._policy import Policy
from ansible_collections.vmforge.backup.plugins.module_utils._retention import GIB, PrunePlan, plan_prune

# What it reads is the same for every Python.
pytestmark = pytest.mark.once
ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "roles").glob("*/README.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "requirements/README.md")),
    ]
)
SITE = ROOT / "docs" / "site" / "index.md"
PLUGINS = {path.stem for path in (ROOT / "plugins").glob("*/*.py")}
ROLES = {path.name for path in (ROOT / "roles").iterdir()}
PLAYBOOKS = {path.stem for path in (ROOT / "playbooks").glob("*.yml")}
PREFIX = "vmforge_backup_"


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    """The text without blocks of code, in which nothing is a link or a heading."""
    return re.sub(r"^(```+|~~~+).*?^\1\s*$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors of headings, as GitHub and MyST make them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.*?)\s*$", prose(path), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {slug if not number else f"{slug}-{number}" for slug, count in found.items() for number in range(count + 1)}


def links(path: Path) -> Iterator[tuple[Path, str]]:
    """Files and anchors that a page leads to; not what lies elsewhere."""
    text = prose(path)
    for target in re.findall(r"\]\(<?([^)\s>]+)>?\)|src(?:set)?=\"([^\"]+)\"", text):
        link = "".join(target)
        if not re.match(r"[a-z]+:", link):
            file, _mark, anchor = link.partition("#")
            yield (path.parent / file).resolve() if file else path, anchor


@pytest.mark.parametrize("path", PAGES, ids=names)
def test_every_link_leads_somewhere(path: Path) -> None:
    for file, anchor in links(path):
        # The release makes it.
        if file.name == "CHANGELOG.md":
            continue
        assert file.exists(), file
        assert ROOT in file.parents
        if anchor:
            assert anchor in anchors(file), f"{names(file)}#{anchor}"


def test_all_variables_are_told_as_the_roles_have_them() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "variables.py"))
    assert tool["PAGE"].read_text() == tool["page"](), "run: python3 tools/environments.py exec tools/variables.py"
    told = set(re.findall(rf"\b{PREFIX}\w+", tool["page"]()))
    tasks = "".join(path.read_text() for path in (ROOT / "roles").glob("*/tasks/*.yml"))
    statistics = set(re.findall(r"set_stats:\n +data:\n +(\w+)", tasks))
    assert _variables() - statistics - PLUGINS == told - PLUGINS


def test_every_page_has_its_place_in_the_site() -> None:
    listed = re.findall(r"^([\w/-]+)$", SITE.read_text(), re.MULTILINE)
    pages = {path.stem for path in PAGES if path.parent.name == "docs"}
    assert sorted(listed) == sorted([*pages, "contributing", "collections/index"])
    for target in re.findall(r"\]\(([\w-]+)\.md\)", SITE.read_text()):
        assert target in listed


def _variables() -> set[str]:
    """What people can set: roles and playbooks read it, and what of the plugins runs on the control node."""
    sources = [*(ROOT / "roles").glob("*/*/*.yml"), *(ROOT / "playbooks").rglob("*.yml")]
    found = {name for path in sources for name in re.findall(rf"\b{PREFIX}\w+", path.read_text())}
    for folder in ("action", "plugin_utils"):
        for path in (ROOT / "plugins" / folder).glob("*.py"):
            found.update(re.findall(rf"\"({PREFIX}\w+)\"", path.read_text()))
    return found


def _metrics() -> set[str]:
    text = (ROOT / "docs" / "alerts.yml").read_text()
    return set(re.findall(rf"\b{PREFIX}\w+", text))


@pytest.mark.parametrize("path", PAGES, ids=names)
def test_every_variable_exists(path: Path) -> None:
    named = set(re.findall(rf"\b{PREFIX}\w*[a-z0-9]\b", path.read_text()))
    assert named - _variables() - _metrics() - PLUGINS == set()


@pytest.mark.parametrize("path", PAGES, ids=names)
def test_every_playbook_role_and_plugin_exists(path: Path) -> None:
    text = path.read_text()
    assert set(re.findall(r"\bplaybooks/(\w+)\.yml", text)) <= PLAYBOOKS
    assert set(re.findall(r"ansible-playbook (?:-\S+ \S+ )*vmforge\.backup\.(\w+)", text)) <= PLAYBOOKS
    assert set(re.findall(r"\brole: vmforge\.backup\.(\w+)|-t role vmforge\.backup\.(\w+)", text)) <= {
        pair for role in ROLES for pair in ((role, ""), ("", role))
    }
    assert set(re.findall(r"\bvmforge\.backup\.([a-z_0-9]+)", text)) <= PLAYBOOKS | ROLES | PLUGINS | {"git"}


def test_every_file_of_the_code_that_is_named_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    layers = text[text.index("## Layers") : text.index("## Decisions")]
    named = {*re.findall(r"`(_\w+)\.py`", text), *re.findall(r"(?<!\w)_[a-z]\w+", layers)}
    assert len(named) > 50
    assert named <= {path.stem for path in (ROOT / "plugins").rglob("*.py")}


@pytest.mark.parametrize("path", PAGES, ids=names)
def test_every_target_of_make_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:`|^)make ([a-z-]+(?: [a-z-]+)*)", path.read_text(), re.MULTILINE)
    assert {target for line in named for target in line.split()} <= targets


def test_every_test_that_is_named_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "comparison.md").read_text()))
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    # As many faults as the PHP pack had.
    assert len(named) > 13
    assert named <= set(re.findall(r"^ *def (test_\w+)\(", code, re.MULTILINE))


# The worked examples of docs/retention.md.
NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
NIGHTS = [NOW.replace(hour=1) - timedelta(days=index) for index in range(400)]
FULL = [Backup(id=format_id(night), node="n", instant=night, size=20 * GIB) for night in NIGHTS]
OPEN = Policy(max_total_gb=None)


def said(pattern: str) -> list[str]:
    """What the page says, its line ends taken for spaces."""
    text = " ".join((ROOT / "docs" / "retention.md").read_text().split())
    match = re.search(pattern, text)
    assert match, pattern
    return list(match.groups())


def plan(backups: Sequence[Backup], policy: Policy) -> PrunePlan:
    return plan_prune(backups, policy, now=NOW)


def test_a_year_of_nights_is_as_it_is_told() -> None:
    rows = re.findall(r"^\| (\d{4}-\d\d-\d\d) \| (.*) \|$", (ROOT / "docs" / "retention.md").read_text(), re.MULTILINE)
    decided = [item for item in plan(FULL, OPEN).decisions if item.keep]
    assert rows == [(f"{item.backup.instant:%Y-%m-%d}", ", ".join(item.reasons)) for item in decided]
    assert said(r"Of 400 backups (\d+) are kept")[0] == str(len(rows))


def test_caps_and_chains_do_what_is_told() -> None:
    capped = plan(FULL, replace(OPEN, max_total_gb=200)).kept
    assert len(capped) == 10
    assert said(r"ten of them are kept, back to ([\d-]+)\.") == [f"{capped[-1].instant:%Y-%m-%d}"]
    off = replace(OPEN, keep_daily=0, keep_weekly=0, keep_monthly=0)
    assert said(r"last 30 days: (\d+) of them") == [str(len(plan(FULL, replace(off, max_age_days=30)).kept))]
    few = replace(off, keep_daily=3, keep_weekly=2, keep_monthly=2)
    assert said(r"keeps (\d+) of the 400 above") == [str(len(plan(FULL, few).kept))]
    chains = plan(_chains(), OPEN)
    only = [item for item in chains.decisions if item.keep and all(why.startswith(ANCESTOR) for why in item.reasons)]
    full = [item for item in chains.kept if item.parent is None]
    sizes = [sum(item.size for item in kept) // GIB for kept in (chains.kept, plan(FULL, OPEN).kept)]
    numbers = said(r"So (\d+) are kept, (\d+) of them only .* (\d+) are full .* (\d+) GiB\. .* would take (\d+) GiB")
    assert numbers == [str(number) for number in (len(chains.kept), len(only), len(full), *sizes)]


def _chains() -> list[Backup]:
    """A full one every Monday, each other one built on that of the day before."""
    found: list[Backup] = []
    for item in reversed(FULL):
        build_on = found[-1].id if found and item.instant.weekday() else None
        found.append(replace(item, parent=build_on, size=GIB if build_on else 20 * GIB))
    return found


def test_other_programs_keep_what_is_told() -> None:
    row = said(r"\| Proxmox Backup Server \| (\d+) \| ([\d-]+) \|")
    kept = _proxmox(
        NIGHTS, [(_day, 7), (lambda night: night.isocalendar()[:2], 4), (lambda night: (night.year, night.month), 12)]
    )
    assert row == [str(len(kept)), f"{kept[-1]:%Y-%m-%d}"]


def _day(night: datetime) -> Any:
    return night.date()


def _proxmox(nights: Sequence[datetime], rules: Sequence[tuple[Callable[[datetime], Any], int]]) -> list[datetime]:
    """As its documentation describes pruning: what an earlier rule decided on is left alone by later ones."""
    keep: dict[datetime, bool] = {}
    for period, count in rules:
        covered = {period(night) for night in nights if keep.get(night)}
        used: set[Any] = set()
        for night in nights:
            if night in keep or period(night) in covered:
                continue
            if period(night) not in used and len(used) == count:
                break
            keep[night] = period(night) not in used
            used.add(period(night))
    return [night for night in nights if keep.get(night)]
