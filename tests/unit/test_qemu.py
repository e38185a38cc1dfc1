# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made of what ``qemu-img info`` says of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmforge.backup.plugins.module_utils._basis import Bitmap
from ansible_collections.vmforge.backup.plugins.module_utils._image_identity import identify
from ansible_collections.vmforge.backup.plugins.module_utils._programs import run_program
from ansible_collections.vmforge.backup.plugins.module_utils._qemu import image_facts, look_at

TOP: dict[str, Any] = {"format": "qcow2", "virtual-size": 1000, "actual-size": 300, "cluster-size": 65536}


def qcow2(**data: Any) -> dict[str, Any]:
    return {**TOP, "format-specific": {"type": "qcow2", "data": {"compat": "1.1", **data}}}


@pytest.mark.parametrize(
    ("layers", "allocated"),
    [
        ([TOP], 300),
        ([TOP, {"virtual-size": 1000, "actual-size": 400}], 700),
        ([TOP, {"virtual-size": 1000, "actual-size": 4000}], 1000),
        ([{"format": "raw", "virtual-size": 1000}], 1000),
    ],
)
def test_what_is_allocated(layers: list[dict[str, Any]], allocated: int) -> None:
    assert image_facts(layers).allocated == allocated


@pytest.mark.parametrize(("cluster", "granularity"), [(512, 4096), (4096, 4096), (65536, 65536), (2 << 20, 65536)])
def test_the_granularity_that_qemu_chooses(cluster: int, granularity: int) -> None:
    assert image_facts([{**qcow2(), "cluster-size": cluster}]).granularity == granularity


def test_bitmaps() -> None:
    told = [
        {"name": "a", "granularity": 65536, "flags": ["auto"]},
        {"name": "b", "granularity": 4096, "flags": ["in-use", "auto"]},
        {"name": "c", "granularity": 4096, "flags": []},
    ]
    facts = image_facts([qcow2(bitmaps=told)])
    assert facts.keeps_bitmaps
    assert facts.bitmaps == (
        Bitmap("a", 65536, sound=True),
        Bitmap("b", 4096, sound=False),
        Bitmap("c", 4096, sound=False),
    )


def test_bitmaps_in_backing_files() -> None:
    told = [{"name": name, "granularity": 65536, "flags": ["auto"]} for name in "ab"]
    facts = image_facts([qcow2(bitmaps=told[:1]), qcow2(), {"format": "raw", "virtual-size": 1}, qcow2(bitmaps=told)])
    assert ([bitmap.name for bitmap in facts.bitmaps], facts.buried) == (["a"], ("a", "b"))


@pytest.mark.parametrize("layer", [{"format": "raw", "virtual-size": 1}, qcow2(compat="0.10")])
def test_images_that_keep_none(layer: dict[str, Any]) -> None:
    facts = image_facts([layer])
    assert (facts.keeps_bitmaps, facts.bitmaps) == (False, ())


@pytest.mark.system
def test_the_files_of_an_image_and_of_those_below_it(tmp_path: Path) -> None:
    base, image = tmp_path / "base.raw", tmp_path / "image.qcow2"
    base.write_bytes(bytes(1 << 20))
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base.name, str(image)]
    assert run_program(create, timeout=60).status == 0
    file = look_at(str(image), image_format="qcow2").file
    assert file == identify([str(image), str(base)]) != identify([str(image)])
