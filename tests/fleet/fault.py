# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets a restore on a node fail or die behind one of its steps: a module that each Python there loads at its start.

``ORDER`` says behind which step; what that was stands in ``HIT``. Without an order nothing is changed.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

ORDER, HIT = Path("/run/vmforge-fault.json"), Path("/run/vmforge-fault.hit")
_MODULE = "module_utils._restore_run"


class _Finder(importlib.abc.MetaPathFinder):
    """Finds what others find, and changes it once it is loaded."""

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.endswith(_MODULE):
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _Fault(module, **json.loads(ORDER.read_text())).arm()


class _Fault:
    """One failure.

    Args:
        behind: How many steps are done before it, from 1.
        die: With SIGKILL, instead of an error.
        functions: What counts as a step when it returns: ``name`` of the module or ``Class.name``; for a note its
            first argument is remembered.
    """

    def __init__(self, module: ModuleType, behind: int, die: bool, functions: Sequence[str]) -> None:
        self._module, self._behind, self._die, self._functions = module, behind, die, functions
        self._done = 0

    def arm(self) -> None:
        for function in self._functions:
            owner, _dot, name = function.rpartition(".")
            holder = getattr(self._module, owner) if owner else self._module
            setattr(holder, name, self._counted(getattr(holder, name), name))

    def _counted(self, original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*args: Any, **more: Any) -> Any:
            result = original(*args, **more)
            self._step(f"note {args[1]}" if name == "note" else name)
            return result

        return counted

    def _step(self, what: str) -> None:
        self._done += 1
        if self._done != self._behind:
            return
        HIT.write_text(what)
        if self._die:
            os.kill(os.getpid(), signal.SIGKILL)
        raise self._module.StorageError("injected")


if ORDER.exists():
    sys.meta_path.insert(0, _Finder())
