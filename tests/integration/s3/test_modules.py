# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two modules: their use cases in process, their EXAMPLES and their secrets through ansible-playbook."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError, S3Error, VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._module import Outcome, Request
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._s3_object import OBJECT_ARGUMENTS, keep_object
from ansible_collections.vmforge.backup.plugins.module_utils._s3_object_info import INFO_ARGUMENTS, look_at_objects
from tests.bed.s3 import Keys, S3Server
from tests.bed.s3_proxy import tls_proxy

from .conftest import MakeStore

ROOT = Path(__file__).resolve().parents[3]
MIB = 1024 * 1024
Run = Callable[..., Outcome]


def checked(spec: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Options as Ansible would hand them on: typed and defaulted."""
    result = ArgumentSpecValidator(spec).validate(options)
    assert not result.error_messages
    return result.validated_parameters


@pytest.fixture
def keep(server: S3Server, prefix: str) -> Run:
    def run(*, check: bool = False, keys: Keys | None = None, **options: Any) -> Outcome:
        params = checked(OBJECT_ARGUMENTS, server.params(keys, **{"s3_prefix": prefix, **options}))
        return keep_object(Request(params, check_mode=check, diff_mode=True))

    return run


@pytest.fixture
def look(server: S3Server, prefix: str) -> Run:
    def run(**options: Any) -> Outcome:
        params = checked(INFO_ARGUMENTS, server.params(**{"s3_prefix": prefix, **options}))
        return look_at_objects(Request(params))

    return run


@pytest.fixture(autouse=True)
def _sockets_of_modules_close_with_their_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In process, nobody ends the process for the stores that the use cases open."""
    from ansible_collections.vmforge.backup.plugins.module_utils import _s3_object, _s3_object_info

    stores = []

    def remember(kind: Any) -> Any:
        def make(config: Any) -> Any:
            stores.append(kind(config))
            return stores[-1]

        return make

    for module in (_s3_object, _s3_object_info):
        monkeypatch.setattr(module, "S3Store", remember(module.S3Store))
    yield
    for store in stores:
        store.close()


def test_life_of_an_object(keep: Run, look: Run) -> None:
    wanted = {"key": "notes/a.txt", "content": "hello", "metadata": {"Kind": "note"}, "content_type": "text/plain"}
    planned = keep(check=True, **wanted)
    assert planned.changed
    assert planned.values["action"] == "upload"
    assert look(key="notes/a.txt").values == {"exists": False, "objects": []}

    made = keep(**wanted)
    assert made.changed
    assert made.diff == planned.diff
    assert made.values["object"]["sha256"] == hashlib.sha256(b"hello").hexdigest()
    again = keep(**wanted)
    assert not again.changed
    assert again.values["action"] == "none"

    for change, reason in (
        ({"content": "world"}, "SHA-256"),
        ({"content": "longer than that"}, "bytes"),
        ({"metadata": {"kind": "letter"}}, "metadata kind"),
        ({"content_type": "text/markdown"}, "content type"),
    ):
        wanted.update(change)
        assert keep(check=True, **wanted).changed
        changed = keep(**wanted)
        assert changed.changed
        assert reason in changed.values["reasons"][0]
        assert not keep(**wanted).changed

    [found] = look(key="notes/a.txt").values["objects"]
    assert found["size"] == 16
    assert found["metadata"] == {"kind": "letter"}
    assert found["content_type"] == "text/markdown"

    assert keep(check=True, key="notes/a.txt", state="absent").changed
    gone = keep(key="notes/a.txt", state="absent")
    assert gone.changed
    assert gone.values["confirmed"]
    assert not keep(key="notes/a.txt", state="absent").changed
    assert look().values["objects"] == []


def test_files_up_and_down(keep: Run, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(11 * MIB))
    up = {"key": "disk", "src": str(source), "part_size": "5M"}
    assert keep(**up).changed
    assert not keep(**up).changed
    down = {"key": "disk", "state": "downloaded", "dest": str(copy), "mode": "0640"}
    assert keep(check=True, **down).changed
    assert not copy.exists()
    assert keep(**down).changed
    assert copy.read_bytes() == source.read_bytes()
    assert copy.stat().st_mode & 0o777 == 0o640
    assert not keep(**down).changed
    copy.write_bytes(bytes(11 * MIB))
    with pytest.raises(InputError, match="overwrite is false"):
        keep(overwrite=False, **down)
    assert keep(**down).changed
    assert copy.read_bytes() == source.read_bytes()
    with pytest.raises(S3Error, match="SHA-256"):
        keep(sha256="0" * 64, **down)
    with pytest.raises(InputError, match="SHA-256"):
        keep(sha256="0" * 64, **up)


@pytest.mark.once
def test_download_of_nothing(keep: Run, tmp_path: Path) -> None:
    with pytest.raises(VMForgeError) as caught:
        keep(key="nothing", state="downloaded", dest=str(tmp_path / "x"))
    assert caught.value.code == "not_found"


@pytest.mark.once
def test_overwrite_false_keeps_what_is_there(keep: Run) -> None:
    keep(key="once", content="first", overwrite=False)
    assert not keep(key="once", content="first", overwrite=False).changed
    with pytest.raises(S3Error) as caught:
        keep(key="once", content="second", overwrite=False)
    assert caught.value.code == "s3_exists"


@pytest.mark.once
def test_an_object_of_another_tool_is_uploaded_once_more(keep: Run, server: S3Server, prefix: str) -> None:
    client = server.client()
    client.put_object(Bucket=server.bucket, Key=f"{prefix}/foreign", Body=b"hello")
    client.close()
    assert keep(key="foreign", content="hello").changed
    assert not keep(key="foreign", content="hello").changed


@pytest.mark.once
def test_listing(keep: Run, look: Run) -> None:
    for name in ("a", "dir/b", "dir/sub/c", "dirt"):
        keep(key=name, content="")
    assert [found["key"] for found in look().values["objects"]] == ["a", "dir/b", "dir/sub/c", "dirt"]
    assert [found["key"] for found in look(path="dir").values["objects"]] == ["dir/b", "dir/sub/c"]
    level = look(recursive=False).values
    assert [found["key"] for found in level["objects"]] == ["a", "dirt"]
    assert level["directories"] == ["dir"]
    assert look(path="dir", recursive=False).values["directories"] == ["dir/sub"]
    assert look(path="elsewhere").values["objects"] == []


@pytest.mark.once
def test_abandoned_uploads(keep: Run, look: Run, make_store: MakeStore, server: S3Server) -> None:
    store = make_store(server)
    upload = store.multipart(store.config.key("images/left"))
    upload.upload_part(1, b"x", sha256=hashlib.sha256(b"x").digest())
    [listed] = look(unfinished_uploads=True).values["uploads"]
    assert listed["key"] == "images/left"
    assert listed["upload_id"] == upload.upload_id
    assert not keep(state="reaped").changed
    assert not keep(state="reaped", age="0s", key="elsewhere").changed
    planned = keep(check=True, state="reaped", age="0s")
    assert planned.changed
    assert planned.values["uploads"] == [listed]
    assert store.list_multiparts(store.config.prefix)
    done = keep(state="reaped", age="0s", key="images")
    assert done.changed
    assert done.values["uploads"] == [listed]
    assert store.list_multiparts(store.config.prefix) == []


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": "../x", "content": ""}, "Not a usable S3 key"),
        ({"key": "a//b", "content": ""}, "Not a usable S3 key"),
        ({"key": "/a", "content": ""}, "Not a usable S3 key"),
        ({"key": "a\nb", "content": ""}, "control character"),
        ({"key": "a", "content": "", "parallel": 0}, "parallel"),
        ({"key": "a", "content": "", "part_size": "1M"}, "part_size"),
        ({"key": "a", "content": "", "metadata": {"ü": "x"}}, "metadata"),
        ({"key": "a", "content": "", "metadata": {"x": "ü"}}, "metadata"),
        ({"key": "a", "content": "", "metadata": {"sha256": "0"}}, "metadata"),
        ({"key": "a", "content": "", "metadata": {"x": "y" * 2000}}, "metadata"),
        ({"key": "a", "content": "", "sha256": "xyz"}, "sha256"),
        ({"key": "a", "state": "downloaded", "dest": "/nowhere/x", "mode": "rw"}, "mode"),
        ({"state": "reaped", "age": "soon"}, "soon"),
        ({"key": "a", "content": "", "s3_bucket": "no/bucket"}, "s3_bucket"),
        ({"key": "a", "content": "", "s3_secret_key": ""}, "s3_secret_key is missing"),
        ({"key": "a", "src": "/nowhere/x"}, "/nowhere/x"),
    ],
)
def test_bad_input(simple: S3Server, options: dict[str, Any], words: str) -> None:
    params = checked(OBJECT_ARGUMENTS, {**simple.params(), **options})
    with pytest.raises(VMForgeError) as caught:
        keep_object(Request(params))
    assert words in caught.value.message


STOPPABLE = """
import json, sys
import tests.conftest
from ansible_collections.vmforge.backup.plugins.module_utils._errors import CancelledError
from ansible_collections.vmforge.backup.plugins.module_utils._module import Request
from ansible_collections.vmforge.backup.plugins.module_utils._s3_object import keep_object
try:
    keep_object(Request(json.load(sys.stdin)))
except CancelledError as error:
    print(error.message)
"""


def has_part(client: Any, bucket: str, store: S3Store) -> bool:
    """Whether the upload is known to whoever began it."""
    return any(
        client.list_parts(Bucket=bucket, Key=key, UploadId=upload).get("Parts")
        for key, upload, _begun in store.list_multiparts(store.config.key("big"))
    )


@pytest.mark.once
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.exhaustive)])
def test_an_upload_that_is_stopped_leaves_no_part(
    server: S3Server, make_store: MakeStore, tmp_path: Path, number: signal.Signals
) -> None:
    store = make_store(server)
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(256 * MIB)
    options = {"s3_prefix": store.config.prefix, "key": "big", "src": str(source), "part_size": "5M", "parallel": 1}
    params = checked(OBJECT_ARGUMENTS, server.params(**options))
    with subprocess.Popen(
        [sys.executable, "-c", STOPPABLE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        json.dump(params, child.stdin)
        child.stdin.close()
        with contextlib.closing(server.client()) as client:
            while child.poll() is None and not has_part(client, server.bucket, store):
                time.sleep(0.02)
        child.send_signal(number)
        assert child.stdout is not None
        output = child.stdout.read()
    assert f"stopped by {number.name}" in output
    assert store.list_multiparts(store.config.prefix) == []
    assert store.list(store.config.prefix) == []


@pytest.mark.once
def test_few_rights(seaweed: S3Server, prefix: str) -> None:
    def run(keys: Keys | None, **options: Any) -> Outcome:
        return keep_object(Request(checked(OBJECT_ARGUMENTS, seaweed.params(keys, s3_prefix=prefix, **options))))

    for _attempt in range(2):
        written = run(seaweed.write_only, key="x", content="x")
        assert written.changed, "without the right to look, every run uploads"
        assert written.warnings
    with pytest.raises(S3Error) as caught:
        run(seaweed.no_delete, key="x", state="absent")
    assert caught.value.code == "s3_denied"
    blind = run(seaweed.blind_delete, key="x", state="absent")
    assert blind.changed
    assert not blind.values["confirmed"]
    assert blind.warnings
    assert not run(None, key="x", state="absent").changed


@pytest.mark.once
def test_locked_in_check_mode_too(seaweed: S3Server, bucket: Callable[..., str]) -> None:
    place = {"s3_bucket": bucket(lock=True), "key": "x"}
    lock = {"s3_object_lock_mode": "GOVERNANCE", "s3_object_lock_retain_until": "2099-01-01"}
    keep_object(Request(checked(OBJECT_ARGUMENTS, seaweed.params(**place, **lock, content="x"))))
    params = checked(OBJECT_ARGUMENTS, seaweed.params(**place, state="absent"))
    for check_mode in (True, False):
        with pytest.raises(S3Error, match="2099-01-01") as caught:
            keep_object(Request(params, check_mode=check_mode))
        assert caught.value.code == "s3_locked"


@pytest.fixture
def playbook(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run tasks with ansible-playbook from a tree in which this checkout is the collection."""
    home = tmp_path / "tree" / "ansible_collections" / "vmforge"
    home.mkdir(parents=True)
    (home / "backup").symlink_to(ROOT)

    def run(tasks: list[dict[str, Any]], *options: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        play = {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars": {"ansible_python_interpreter": sys.executable, **variables},
            "tasks": tasks,
        }
        (tmp_path / "ansible.cfg").touch()
        (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "tree"),
            "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
            "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_INJECT_INVOCATION": "1",
        }
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", *options]
        return subprocess.run(
            [*command, str(tmp_path / "play.yml")], env=environment, capture_output=True, text=True, check=False
        )

    return run


def examples(module: str) -> list[dict[str, Any]]:
    source = importlib.import_module(f"ansible_collections.vmforge.backup.plugins.modules.{module}")
    return yaml.safe_load(source.EXAMPLES)


@pytest.mark.once
def test_the_examples_run(
    seaweed: S3Server, playbook: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """As they are, but for the names of the server, its bucket and the files."""
    (tmp_path / "debian12.qcow2").write_bytes(os.urandom(6 * MIB))
    with tls_proxy(seaweed.port, tmp_path) as (proxy, certificate):
        replaced = {
            "minio.example.com:9000": f"localhost:{proxy.port}",
            "vmforge-backups": seaweed.bucket,
            "/srv/images/": f"{tmp_path}/",
            "/tmp/readme": f"{tmp_path}/readme",
        }
        text = yaml.safe_dump(examples("vmforge_s3_object") + examples("vmforge_s3_object_info"))
        for old, new in replaced.items():
            text = text.replace(old, new)
        result = playbook(
            [{**task, "environment": {"AWS_CA_BUNDLE": str(certificate)}} for task in yaml.safe_load(text)],
            "--diff",
            s3_access_key=seaweed.access_key,
            s3_secret_key=seaweed.secret_key,
        )
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "readme.txt").read_text() == "Restore with vmforge.backup.restore."


@pytest.mark.once
@pytest.mark.parametrize("secret", ["right", pytest.param("wrong", marks=pytest.mark.exhaustive)])
def test_no_secret_in_any_output(
    seaweed: S3Server, playbook: Callable[..., subprocess.CompletedProcess[str]], secret: str, tmp_path: Path
) -> None:
    key = seaweed.secret_key if secret == "right" else "quite-a-wrong-secret-0815"
    token = "a-session-token-4711"
    common = {**seaweed.params(Keys(seaweed.access_key, "{{ lookup('file', secret_file) }}")), "key": "secrets/x"}
    (tmp_path / "secret").write_text(key)
    tasks = [
        {"vmforge.backup.vmforge_s3_object": {**common, "content": "x"}, "ignore_errors": True},
        {"vmforge.backup.vmforge_s3_object_info": common, "ignore_errors": True},
        {"vmforge.backup.vmforge_s3_object": {**common, "state": "absent"}, "ignore_errors": True},
        {"vmforge.backup.vmforge_s3_object_info": {**common, "s3_session_token": token}, "ignore_errors": True},
    ]
    result = playbook(tasks, "-vvvv", "--diff", secret_file=str(tmp_path / "secret"))
    output = result.stdout + result.stderr
    assert "s3_credentials" in output, "the token is wrong in both cases"
    assert "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" in output
    assert key not in output
    assert token not in output
    assert "Traceback" not in output
