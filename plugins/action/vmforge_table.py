# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints a table as it is: the output of a debug task would put it in quotes, or on one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.vmforge.backup.plugins.plugin_utils._report_file import as_csv, as_json, write_report
from ansible_collections.vmforge.backup.plugins.plugin_utils._table import printable, render
from ansible_collections.vmforge.backup.plugins.plugin_utils._terminal import show

_KINDS = ["text", "list", "bytes", "seconds", "age"]
_COLUMN = {
    "key": {"type": "str", "required": True, "no_log": False},
    "title": {"type": "str", "required": True},
    "kind": {"type": "str", "choices": _KINDS, "default": "text"},
}
_ARGUMENTS = {
    "title": {"type": "str", "default": ""},
    "columns": {"type": "list", "elements": "dict", "required": True, "options": _COLUMN},
    "rows": {"type": "list", "elements": "dict", "required": True},
    "notes": {"type": "list", "elements": "str", "default": []},
    "warnings": {"type": "list", "elements": "str", "default": []},
    "empty": {"type": "str", "default": "Nothing."},
    "file": {"type": "path"},
}
# One variable for every playbook that prints a table.
_FILE = "vmforge_backup_report_file"


class ActionModule(ActionBase):
    """See the documentation of the module of the same name."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Print, and return what was printed."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, args = self.validate_argument_spec(_ARGUMENTS)
        table = render(args["columns"], args["rows"]) if args["rows"] else [args["empty"]]
        lines = [args["title"], "", *table, "", *args["notes"]]
        show(["\n".join(printable(line) for line in lines).strip("\n") + "\n"])
        for warning in args["warnings"]:
            Display().warning(printable(warning))
        file = args["file"] or self._templar.template((task_vars or {}).get(_FILE))
        # Without columns there are only warnings.
        if file and args["columns"]:
            _write(Path(str(file)).expanduser(), args)
        return dict(result, changed=False, rows=args["rows"], table=table)


def _write(path: Path, args: dict[str, Any]) -> None:
    if path.suffix == ".csv":
        text = as_csv(args["columns"], args["rows"])
    else:
        text = as_json(args["rows"], title=args["title"], notes=args["notes"], warnings=args["warnings"])
    try:
        write_report(path, text)
    except OSError as error:
        raise AnsibleActionFail(f"The report {path} cannot be written: {error.strerror or error}.") from error
