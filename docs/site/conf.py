# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How Sphinx makes the site of ``docs/`` and of the reference; ``make docs`` puts both beside this file."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

project = "vmforge.backup"
project_copyright = "VMForge contributors"
html_title = project
html_theme = "furo"
html_show_sphinx = False
# Settings of Ansible's own that the reference names.
nitpick_ignore_regex = [("envvar", "ANSIBLE_.*")]
extensions = ["myst_parser", "sphinx.ext.intersphinx", "sphinx_antsibull_ext"]
myst_heading_anchors = 4
REPOSITORY = "https://github.com/vmforge/vmforge.backup/blob/main/"

# What the reference refers to in Ansible's own documentation. A build fetches nothing, so the list of it is made here.
_ANSIBLE = "https://docs.ansible.com/ansible/latest/"
_LABELS = {
    "action_plugins": "plugins/action.html#action-plugins",
    "ansible_configuration_settings": "reference_appendices/config.html#ansible-configuration-settings",
    "callback_plugins": "plugins/callback.html#callback-plugins",
    "common_return_values": "reference_appendices/common_return_values.html#common-return-values",
    "inventory_plugins": "plugins/inventory.html#inventory-plugins",
}
_INVENTORY = Path(__file__).with_name("ansible.inv")
_INVENTORY.write_bytes(
    b"# Sphinx inventory version 2\n# Project: Ansible\n# Version: latest\n# The rest is compressed using zlib.\n"
    + zlib.compress("".join(f"{name} std:label -1 {place} {name}\n" for name, place in _LABELS.items()).encode())
)
intersphinx_mapping = {"ansible": (_ANSIBLE, _INVENTORY.name)}


def rewrite_links(text: str) -> str:
    """Let links of the repository lead to pages of the site where there are some, else to the repository."""
    text = text.replace("](../CONTRIBUTING.md", "](contributing.md").replace("](docs/", "](")
    text = re.sub(r"\]\(\.\./roles/(\w+)/README\.md\)", r"](collections/\1_role.rst)", text)
    return text.replace("](../", f"]({REPOSITORY}")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _source_read)


def _source_read(app: Any, name: str, content: list[str]) -> None:
    if str(app.env.doc2path(name)).endswith(".md"):
        content[0] = rewrite_links(content[0])
