# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts Ansible's programs in a third of the time: forked off a process that has imported Ansible already.

It is the same script, run by the same Python with the same arguments, environment and directory. What is kept is what
the import made of the environment and of ``ansible.cfg``, and the modules that were packed for sending; so each
environment has a process of its own, and what is changed in ``plugins/`` while tests run is not seen by all of them.
They end with the tests.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# Beside the programs it imports what nearly every playbook makes them load.
_SERVER = """
import atexit, gc, json, multiprocessing.synchronize, os, pty, runpy, sys, tomllib, xml.dom.minidom
import ansible.cli.adhoc, ansible.cli.playbook, ansible.executor.process.worker, ansible.executor.task_executor
import ansible.playbook.handler, ansible.playbook.included_file, ansible.playbook.role_include
import ansible.plugins.become.su, ansible.plugins.become.sudo, ansible.plugins.cache.memory
import ansible.plugins.callback.default, ansible.plugins.connection.local, ansible.plugins.connection.ssh
import ansible.plugins.inventory.ini, ansible.plugins.inventory.yaml, ansible.plugins.shell.sh
import ansible.plugins.strategy.linear, ansible.plugins.vars.host_group_vars
from ansible.constants import DEFAULT_LOCAL_TMP
from ansible.utils.path import cleanup_tmp_file
gc.collect()
gc.freeze()
for line in sys.stdin.buffer:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    os.write(1, b"%d\\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    sys.exit()
# The directory of what is packed is the parent's.
atexit.unregister(cleanup_tmp_file)
for number, path in enumerate(("/dev/null", *request["outputs"])):
    os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND if number else os.O_RDONLY), number)
sys.argv = request["argv"]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
PROGRAMS = ("ansible", "ansible-playbook")
# Those that have nothing to do, by all that they depend on; several when playbooks run side by side.
_IDLE: dict[str, list[subprocess.Popen[bytes]]] = {}


def run(
    script: Path,
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    cwd: Path | None = None,
    within: Sequence[str] = (),
    timeout: float = 1800,
) -> subprocess.CompletedProcess[str]:
    """Run one of Ansible's programs, its standard input empty; a failure is not raised.

    Args:
        within: Words before the command, such as those that enter a namespace.
    """
    config = Path(env["ANSIBLE_CONFIG"]).read_text()
    key = json.dumps([str(script.parent), sorted(env.items()), str(cwd), list(within), config])
    idle = _IDLE.setdefault(key, [])
    server = idle.pop() if idle else _start(script.parent, env, cwd, within)
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as place:
        outputs = [Path(place) / name for name in ("stdout", "stderr")]
        for path in outputs:
            path.touch()
        request = {"argv": [str(script), *argv], "outputs": [str(path) for path in outputs]}
        killer = threading.Timer(timeout, _kill, [server.pid])
        killer.start()
        code = b""
        try:
            server.stdin.write(json.dumps(request).encode() + b"\n")
            server.stdin.flush()
            code = server.stdout.readline()
        finally:
            killer.cancel()
            if not code:
                _kill(server.pid)
                server.communicate()
        stdout, stderr = (path.read_text() for path in outputs)
    if not code:
        raise subprocess.TimeoutExpired(request["argv"], timeout, stdout, stderr)
    idle.append(server)
    return subprocess.CompletedProcess(request["argv"], int(code), stdout, stderr)


def _start(programs: Path, env: Mapping[str, str], cwd: Path | None, within: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*within, str(programs / "python"), "-c", _SERVER],
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def _kill(pid: int) -> None:
    """A process and all that it has started, for Ansible's workers are in sessions of their own."""
    with contextlib.suppress(OSError):
        # What stands still starts nothing between this look and its end.
        os.kill(pid, signal.SIGSTOP)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][1] not in "TtZX":
            time.sleep(0.001)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(pid, signal.SIGKILL)
        for child in children:
            _kill(int(child))


def _end() -> None:
    for server in (server for idle in _IDLE.values() for server in idle):
        server.communicate()


atexit.register(_end)
