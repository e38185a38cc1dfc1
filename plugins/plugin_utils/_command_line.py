# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``vmforge-backup`` can be told, and which playbook with which variables that means. Pure."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_POLICY = {
    "daily": "keep_daily",
    "weekly": "keep_weekly",
    "monthly": "keep_monthly",
    "max_gb": "max_total_gb",
    "max_days": "max_age_days",
}
_RESETTABLE = (*_POLICY.values(), "offsite", "delete_local_after_upload")
_FIELDS = " or ".join([", ".join(_RESETTABLE[:-1]), _RESETTABLE[-1]])
_LEVELS = ("manifest", "data", "boot")
_EXIT = """exit codes:
  0  all was done    1  wrong usage    2  no such virtual machine    3  something failed

Names are given as they are. What follows a lone -- goes to ansible-playbook."""


@dataclass(frozen=True)
class Command:
    """What to do.

    Attributes:
        name: As typed, such as ``list``.
        playbook: Such as ``list``; empty for ``completion``.
        vms: Those that were named.
        variables: For the playbook.
        check: Only plan.
        json: For programs.
        verbose: How often ``-v`` was given.
        more: Further arguments of ansible-playbook.
    """

    name: str
    playbook: str
    vms: tuple[str, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    check: bool = False
    json: bool = False
    verbose: int = 0
    more: tuple[str, ...] = ()


class UsageError(Exception):
    """What was typed makes no sense; its text is for people."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise, in place of leaving with argparse's own code."""
        raise UsageError(f"{self.format_usage()}{self.prog}: {message}")


def parse(argv: Sequence[str]) -> Command:
    """Understand a command line.

    Raises:
        UsageError: It is none.
        SystemExit: Help was asked for and printed.
    """
    words = list(argv)
    own, more = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = make_parser()
    args = parser.parse_args(own)
    if args.command is None:
        raise UsageError(parser.format_help())
    if args.command == "completion":
        return Command("completion", "")
    vms = [args.vm] if isinstance(args.vm, str) else list(args.vm)
    variables = {**({"vm": args.vm} if args.vm else {}), **_variables(args)}
    return Command(
        args.command, _PLAYBOOKS[args.command], tuple(vms), variables, args.check, args.json, args.verbose, tuple(more)
    )


_PLAYBOOKS = {
    "run": "backup",
    "list": "list",
    "prune": "prune",
    "delete": "delete",
    "hold": "hold",
    "policy": "policy",
    "restore": "restore",
    "verify": "verify",
    "status": "status",
}


def _variables(args: argparse.Namespace) -> dict[str, Any]:
    """Those of one command, without the machines."""
    name = args.command
    if name == "run" and not args.vm and not args.all:
        raise UsageError("vmforge-backup run: name a virtual machine, or say --all.")
    if name == "run" and args.vm and args.all:
        raise UsageError("vmforge-backup run: name virtual machines, or say --all, not both.")
    given: dict[str, Any] = {
        "id": getattr(args, "id", None),
        "before": getattr(args, "before", None),
        "to": getattr(args, "to", None),
        "node": getattr(args, "node", None),
        "vmforge_backup_max_age": getattr(args, "max_age", None),
        "vmforge_backup_confirm": getattr(args, "confirm", None) or None,
        "vmforge_backup_restore_start": getattr(args, "start", None) or None,
        "vmforge_backup_restore_force": getattr(args, "force", None) or None,
        "vmforge_backup_verify_level": getattr(args, "level", None),
        "vmforge_backup_verify_sample": getattr(args, "sample", None),
        "vmforge_backup_hold_until": getattr(args, "until", None),
        "vmforge_backup_hold_reason": getattr(args, "reason", None),
        "vmforge_backup_hold_state": "absent" if getattr(args, "release", False) else None,
    }
    if name == "hold" and not args.release and not args.reason:
        raise UsageError("vmforge-backup hold: say why with --reason, or --release it.")
    if name == "policy":
        given.update(_policy(args))
    return {key: value for key, value in given.items() if value is not None}


def _policy(args: argparse.Namespace) -> dict[str, Any]:
    fields = {field: getattr(args, name) for name, field in _POLICY.items() if getattr(args, name) is not None}
    if args.offsite is not None:
        fields["offsite"] = args.offsite
    if args.remove and (fields or args.reset):
        raise UsageError("vmforge-backup policy: --remove goes with nothing else.")
    return {
        "vmforge_backup_policy_set": fields or None,
        "vmforge_backup_policy_reset": args.reset or None,
        "vmforge_backup_policy_state": "absent" if args.remove else None,
    }


def _id(text: str) -> str:
    if text != "latest" and not _ID.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no id of a backup, such as 20261122T151200Z or latest")
    return text


def _exact_id(text: str) -> str:
    if text == "latest":
        raise argparse.ArgumentTypeError("which backup to delete has to be said exactly")
    return _id(text)


def _name(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name")
    return text


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = _Parser(
        prog="vmforge-backup",
        description="Backs up virtual machines and looks after their backups.",
        epilog=_EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    one = _common(commands, "run", "back up", "*")
    one.add_argument("--all", action="store_true", help="all virtual machines")
    one.add_argument("--max-age", metavar="AGE", help="not if there is a backup younger than this, such as 20h")
    one = _common(commands, "list", "list backups", "*")
    one.add_argument("--id", type=_id, help="only this one")
    one = _common(commands, "prune", "delete the backups that no policy keeps", "*")
    one.add_argument("--confirm", action="store_true", help="even if that is more than what is kept")
    one = _common(commands, "delete", "delete one backup", None)
    one.add_argument("id", metavar="ID", type=_exact_id, help="such as 20261122T151200Z")
    one = _common(commands, "hold", "protect one backup from every deletion, or free it", None)
    one.add_argument("id", metavar="ID", type=_id, help="such as 20261122T151200Z, or latest")
    one.add_argument("--reason", type=_name, help="why it is held")
    one.add_argument("--until", metavar="TIME", help="when that ends, such as 2027-01-31T00:00:00Z")
    one.add_argument("--release", action="store_true", help="free it")
    one = _common(commands, "policy", "show what is kept of a virtual machine's backups, or set it", None)
    for name, meaning in zip(_POLICY, ("days", "weeks", "months", "GiB that all may take", "days until one goes")):
        one.add_argument(f"--{name.replace('_', '-')}", type=_count, metavar="N", help=meaning)
    one.add_argument("--offsite", choices=["none", "s3"], help="where copies go")
    one.add_argument("--reset", action="append", choices=_RESETTABLE, metavar="FIELD", help=f"{_FIELDS}: as by default")
    one.add_argument("--remove", action="store_true", help="no policy of its own")
    one = _common(commands, "restore", "restore a virtual machine, in place unless --to is given", None)
    one.add_argument("--id", type=_id, help="which backup; the latest, unless given")
    one.add_argument("--before", metavar="TIME", help="the newest that is not younger than this")
    one.add_argument("--to", type=_name, metavar="NAME", help="make a new one of this name")
    one.add_argument("--node", type=_name, help="on this node")
    one.add_argument("--start", action="store_true", help="start it")
    one.add_argument("--force", action="store_true", help="pull its plug if it runs")
    one = _common(commands, "verify", "prove that backups can be read, and mend what cannot", "*")
    one.add_argument("--id", type=_id, help="only this one")
    one.add_argument("--level", choices=_LEVELS, help="how thoroughly")
    one.add_argument("--sample", metavar="SHARE", help="a share of them, such as 1/7")
    _common(commands, "status", "tell what is going on right now", "0")
    commands.add_parser("completion", help="print the completion for bash", description="Prints it.")
    return parser


def _common(commands: Any, name: str, text: str, vms: str | None) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=_EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if vms == "*":
        parser.add_argument("vm", metavar="VM", nargs="*", type=_name, help="by name or UUID; all, if none is named")
    elif vms is None:
        parser.add_argument("vm", metavar="VM", type=_name, help="by name or UUID")
    else:
        parser.set_defaults(vm=[])
    parser.add_argument("--json", action="store_true", help="print JSON, and everything else to standard error")
    parser.add_argument("--check", action="store_true", help="only tell what would be done")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="all that Ansible says; up to -vvvv")
    return parser


def completion() -> str:
    """Make a completion for bash."""
    parser = make_parser()
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    cases = [
        f"        {name}) words='{' '.join(option for action in one._actions for option in action.option_strings)}' ;;"
        for name, one in commands.choices.items()
    ]
    return _COMPLETION.format(commands=" ".join(commands.choices), cases="\n".join(cases))


_COMPLETION = """# bash completion for vmforge-backup
_vmforge_backup() {{
    local words word=${{COMP_WORDS[COMP_CWORD]}}
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
    [ "$COMP_CWORD" -gt 1 ] || words='{commands} --help'
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -F _vmforge_backup vmforge-backup
"""


def to_yaml(variables: Mapping[str, Any]) -> str:
    """Write variables for ``ansible-playbook -e @file``: no text is taken for a template, whatever it holds."""
    return "---\n" + "".join(f"{_quoted(name)}: {_value(value)}\n" for name, value in variables.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        # With a question mark: other keys may have 1024 characters and no more.
        return "{" + ", ".join(f"? {_quoted(str(key))} : {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return f"!unsafe {_quoted(str(value))}"


def _quoted(text: str) -> str:
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if " " <= char <= "~":
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
