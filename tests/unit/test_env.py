# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``.env`` files: what is written is read alike by VMForge's loader, by a real shell and by systemd's own parser."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.module_utils._env import EnvPlan, encode, read_values, rewrite
from ansible_collections.vmforge.backup.plugins.module_utils._env_readers import SystemdReader
from ansible_collections.vmforge.backup.plugins.module_utils._errors import InputError

# systemd's parser of NAME=value files, as a program.
SYSTEMD = "/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator"


def loader(data: bytes) -> dict[bytes, bytes]:
    """VMForge's loader, from its description and not from our code; PHP works on bytes."""
    values = {}
    for raw in data.split(b"\n"):
        line = raw.strip(b" \t\n\r\0\x0b")
        if line == b"" or line[:1] == b"#" or b"=" not in line:
            continue
        name, value = line.split(b"=", 1)
        values[name.strip(b" \t\n\r\0\x0b")] = value.strip(b" \t\n\r\0\x0b").strip(b"'\"\\")
    return values


def shell(data: bytes, names: Iterable[str]) -> dict[str, str]:
    """What ``set -a; . FILE`` puts into the environment of a program."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "env"
        path.write_bytes(data)
        # What is no assignment would be run: here it finds no program, and nothing of value to write to.
        script = f"set -a; . {path} >/dev/null 2>&1; exec /usr/bin/env -0"
        argv, env = ["/bin/sh", "-c", script], {"PATH": "/nonexistent"}
        done = subprocess.run(argv, env=env, cwd=place, capture_output=True, check=False)
    found = dict(item.split(b"=", 1) for item in done.stdout.split(b"\0") if item)
    return {name: os.fsdecode(found[os.fsencode(name)]) for name in names if os.fsencode(name) in found}


def systemd(data: bytes, names: Iterable[str]) -> dict[str, str]:
    """What systemd's own parser makes of a file; it prints ``NAME=value``, or ``NAME="value"`` with escapes."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "environment.d" / "x.conf"
        path.parent.mkdir()
        path.write_bytes(data)
        done = subprocess.run([SYSTEMD], env={"XDG_CONFIG_HOME": place}, capture_output=True, check=True)
    found = {}
    for line in os.fsdecode(done.stdout).rstrip("\n").split("\n"):
        name, value = line.split("=", 1)
        found[name] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
    return {name: found[name] for name in names if name in found}


def values_of(text: str) -> dict[str, str]:
    return {name: line.read for name, line in read_values(text).items()}


def read_by_all(text: str, values: Mapping[str, str]) -> None:
    data = text.encode("utf-8", "surrogateescape")
    php = {os.fsdecode(name): os.fsdecode(value) for name, value in loader(data).items()}
    assert {name: php.get(name) for name in values} == values
    assert shell(data, values) == values
    assert {name: SystemdReader().read(text).get(name) for name in values} == values
    # The program takes no empty values, and expands what others may be meant to hold.
    plain = {name: value for name, value in values.items() if value and "$" not in value}
    assert systemd(data, plain) == plain


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("", ""),
        ("/var/lib/vmforge/backups", "/var/lib/vmforge/backups"),
        ("play.min.io:9000", "play.min.io:9000"),
        ("abc+/=", "abc+/="),
        ("~root", "'~root'"),
        ("a b", "'a b'"),
        (" a ", "' a '"),
        ("a#b", "'a#b'"),
        ("$HOME", "'$HOME'"),
        ("a`b`", "'a`b`'"),
        ("a;b&c|d", "'a;b&c|d'"),
        ("a\\b", "'a\\b'"),
        ('a"b', "'a\"b'"),
        ("it's", '"it\'s"'),
        ("it's a \\b", '"it\'s a \\b"'),
        ("größe", "'größe'"),
        ("*", "'*'"),
    ],
)
def test_a_value_is_written_as_plainly_as_can_be(value: str, written: str) -> None:
    assert encode("S3_PREFIX", value) == written
    read_by_all(f"S3_PREFIX={written}\n", {"S3_PREFIX": value})


@pytest.mark.parametrize(
    "value",
    ["'", '"', "\\", "a'", '"a', "a\\", "\\a", "a'b\"c", "it's $HOME", "it's `id`", "it's \\\\", "it's \\$"],
)
def test_a_value_that_readers_would_take_differently_is_refused(value: str) -> None:
    with pytest.raises(InputError, match="S3_SECRET_KEY cannot be written") as caught:
        encode("S3_SECRET_KEY", value)
    assert f" {value} " not in caught.value.message


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "\ud800", "\ufeff", "\ufffe", "a\x7f", "\t"])
def test_what_is_no_text_is_refused(value: str) -> None:
    with pytest.raises(InputError, match=r"holds the character U\+"):
        encode("S3_PREFIX", value)


NASTY = st.text(st.sampled_from("ab \\'\"$`#=;&|*?~!%{}()<>é\u00a0\u2028\U0001f600-"), max_size=12)


@pytest.mark.once
@settings(max_examples=60, deadline=None)
@given(st.lists(NASTY | st.text(max_size=20), min_size=1, max_size=8))
def test_whatever_can_be_written_is_read_alike_by_all(texts: list[str]) -> None:
    values = {}
    for text in texts:
        try:
            encode("X", text)
        except InputError:
            continue
        values[f"KEY{len(values)}"] = text
    read_by_all(rewrite("", values).text, values)


@pytest.mark.once
@settings(max_examples=300, deadline=None)
@given(NASTY.map(lambda text: re.sub("[$<>]", "", text)))
def test_nothing_is_refused_that_some_form_could_say(text: str) -> None:
    try:
        encode("X", text)
    except InputError:
        for form in (text, f"'{text}'", f'"{text}"', f" '{text}'"):
            data = f"X={form}\n".encode()
            read = [loader(data).get(b"X"), *(os.fsencode(found.get("X", "")) for found in (shell(data, ["X"]),))]
            read.append(SystemdReader().read(data.decode()).get("X", "").encode())
            assert read != [text.encode()] * 3


OLD = """\
# The panel
APP_NAME=VMForge
DB_PASS='p w'

BACKUP_DIR=/old
S3_SSL=1
# the end"""


def lines(plan: EnvPlan) -> list[str]:
    return plan.text.split("\n")


def test_a_key_is_replaced_where_it_stands_and_new_ones_follow_at_the_end() -> None:
    plan = rewrite(OLD, {"S3_BUCKET": "b", "BACKUP_DIR": "/new dir", "S3_SSL": "1"})
    assert plan.text == OLD.replace("BACKUP_DIR=/old", "BACKUP_DIR='/new dir'") + "\nS3_BUCKET=b\n"
    assert [(change.name, change.before, change.after) for change in plan.changes] == [
        ("BACKUP_DIR", "BACKUP_DIR=/old", "BACKUP_DIR='/new dir'"),
        ("S3_BUCKET", None, "S3_BUCKET=b"),
    ]
    assert not plan.warnings
    again = rewrite(plan.text, {"S3_BUCKET": "b", "BACKUP_DIR": "/new dir", "S3_SSL": "1"})
    assert (again.text, again.changes) == (plan.text, [])


@pytest.mark.parametrize("line", ["K=v", "K='v'", 'K="v"', "K=v  "])
def test_a_line_that_says_it_already_is_left_alone(line: str) -> None:
    assert not rewrite(f"{line}\n", {"K": "v"}).changes
    assert not rewrite(line, {"K": "v"}).changes


@pytest.mark.parametrize("line", ["K = v", " K=v", "K= v", "K=v\\", "K='v", "K=v\r", "K=''v''", "K=\"'v'\""])
def test_a_line_that_only_some_read_so_is_written_anew(line: str) -> None:
    plan = rewrite(f"A=1\n{line}\nB=2\n", {"K": "v"})
    assert plan.text == "A=1\nK=v\nB=2\n"
    assert values_of(f"{line}\n") == {"K": "v"}


def test_the_last_of_several_is_the_one_that_counts() -> None:
    plan = rewrite("K=1\nA=b\nK=2\n", {"K": "3"})
    assert plan.text == "K=1\nA=b\nK=3\n"
    assert plan.duplicates == {"K": [1, 3]}
    assert "lines 1, 3" in plan.warnings[0]
    read_by_all(plan.text, {"K": "3", "A": "b"})


def test_carriage_returns_of_others_stay_and_ours_have_none() -> None:
    plan = rewrite("A=1\r\nK=old\r\n#\r\nB=2", {"K": "v", "L": "w"})
    assert plan.text == "A=1\r\nK=v\n#\r\nB=2\nL=w\n"
    read_by_all(plan.text, {"K": "v", "L": "w"})


def test_a_byte_order_mark_stays_and_hides_no_key() -> None:
    plan = rewrite("\ufeff# x\nK=1\n", {"K": "2"})
    assert plan.text == "\ufeff# x\nK=2\n"
    plan = rewrite("\ufeffK=1\n", {"K": "2"})
    assert plan.text == "\ufeffK=1\nK=2\n"
    assert "byte order mark" in plan.warnings[0]
    assert loader(plan.text.encode())[b"K"] == b"2"


@pytest.mark.parametrize("before", ["# a comment \\\n", "A=b\\\n", "# \\"])
def test_a_line_that_goes_on_does_not_swallow_ours(before: str) -> None:
    for text in (before, before.rstrip("\n") + "\nK=v\n"):
        plan = rewrite(text, {"K": "v"})
        assert plan.text == before.rstrip("\n") + "\n\nK=v\n"
        read_by_all(plan.text, {"K": "v"})


@pytest.mark.parametrize(
    ("line", "meant", "kept"),
    [
        ("K=s3.example.com:9000          # or AWS", "s3.example.com:9000", "# or AWS\nK=x\n"),
        ("K='a b' # c", "a b", "# c\nK=x\n"),
        ("K=   # nothing", "", "# nothing\nK=x\n"),
        ("K=a#b", "a#b", "K=x\n"),
        ("K='a # b'", "a # b", "K=x\n"),
        ("K=# b", "# b", "K=x\n"),
    ],
)
def test_a_comment_behind_a_value_is_no_value_and_is_kept(line: str, meant: str, kept: str) -> None:
    assert read_values(line)["K"].meant == meant
    assert rewrite(f"{line}\n", {"K": "x"}).text == kept


def test_what_hides_our_lines_is_told() -> None:
    said = rewrite("A=it's\nK=1\n", {"K": "2"}).warnings
    assert said == ["A shell does not see K in line 2: line 1 leaves a quote open."]
    said = rewrite('A="open\nK=1\n', {"K": "2"}).warnings
    assert any(text.startswith("systemd does not see K") for text in said)
    said = rewrite("K=1\nexport K=9\n", {"K": "2"}).warnings
    assert said == ["Line 2 sets K for a shell alone: VMForge's loader does not know export."]
    said = rewrite("A=\udce4\n", {"K": "2"}).warnings
    assert said == ["Line 1 holds what is no text in UTF-8: systemd may refuse the whole file."]


@pytest.mark.parametrize("name", ["", "A B", "1A", "A=B", "A-B", "Ä", "A\n"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no name of a variable"):
        rewrite("", {name: "v"})


FILE = st.lists(
    st.sampled_from(
        [
            "A=1",
            "K=old",
            "K='o l d'",
            "# M=no",
            "",
            "  ",
            "B=\\",
            "junk",
            "K = x # y",
            "L=1\r",
            "export A=2",
            "C=\udcff",
        ]
    ),
    max_size=8,
)


@settings(deadline=None)
@given(FILE, st.sampled_from(["", "\n"]), NASTY)
def test_every_other_line_stays_and_a_second_time_changes_nothing(old: list[str], end: str, value: str) -> None:
    try:
        encode("K", value)
    except InputError:
        assume(False)
    text = "\n".join(old) + end
    plan = rewrite(text, {"K": value, "L": "1"})
    raw = plan.text.encode("utf-8", "surrogateescape")
    assert (loader(raw)[b"K"], loader(raw)[b"L"]) == (value.encode(), b"1")
    assert not rewrite(plan.text, {"K": value, "L": "1"}).changes
    others = loader(text.encode("utf-8", "surrogateescape"))
    assert {**others, b"K": value.encode(), b"L": b"1"} == loader(raw)
    kept = [line for line in old if line.strip() and not line.lstrip().startswith(("K", "L"))]
    assert [line for line in lines(plan) if line in kept] == kept
    assert shell(raw, ["K", "L"]) == {"K": value, "L": "1"}
