# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which node backs up what."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmforge.backup.plugins.plugin_utils._fleet import assign

A, B, C = (f"{digit * 8}-{digit * 4}-{digit * 4}-{digit * 4}-{digit * 12}" for digit in "abc")


def vm(name: str, uuid: str, active: bool = True) -> dict[str, Any]:
    return {"name": name, "uuid": uuid, "active": active}


def node(*vms: dict[str, Any]) -> dict[str, Any]:
    return {"vms": list(vms), "not_found": []}


DEAD = {"unreachable": True, "msg": "no route"}


def test_each_node_gets_its_own_in_the_order_asked() -> None:
    located = {"n1": node(vm("web", A), vm("db", B)), "n2": node(vm("mail", C))}
    assignment = assign(located, ["mail", "db", "web"])
    assert assignment.here == {"n1": [B, A], "n2": [C]}
    assert assignment.names == {A: "web", B: "db", C: "mail"}
    assert not (assignment.refused or assignment.silent or assignment.skipped)


def test_nothing_asked_means_everything() -> None:
    assert assign({"n1": node(vm("web", A)), "n2": node()}, []).here == {"n1": [A]}


def test_asked_twice_by_name_and_uuid_is_once() -> None:
    located = {"n1": node(vm("web", A))}
    assert assign(located, ["web", A, A.upper(), A.replace("-", "")]).here == {"n1": [A]}


def test_not_found_names_the_nodes_searched_and_those_that_were_silent() -> None:
    located = {"n1": node(), "n2": node(), "n3": DEAD, "n4": {"msg": "no libvirt"}}
    assignment = assign(located, ["web"])
    [refused] = assignment.refused
    assert refused["result"] == "not found"
    assert refused["message"] == (
        "web is on none of the nodes searched (n1, n2); it may be on one that did not answer (n3, n4)"
    )
    assert [(item["node"], item["result"]) for item in assignment.silent] == [("n3", "unreachable"), ("n4", "failed")]


def test_not_found_says_so_when_nobody_could_be_asked() -> None:
    [refused] = assign({"n1": DEAD}, ["web"]).refused
    assert refused["message"] == "web could not be looked for: no node answered"


def test_one_name_for_two_machines_is_refused_and_both_are_named() -> None:
    located = {"n1": node(vm("web", A)), "n2": node(vm("web", B))}
    assignment = assign(located, ["web"])
    assert assignment.here == {}
    [refused] = assignment.refused
    assert refused["result"] == "ambiguous"
    assert f"{A} on n1, {B} on n2" in refused["message"]
    assert assign(located, [B]).here == {"n2": [B]}
    assert assign(located, []).here == {"n1": [A], "n2": [B]}


def test_a_name_that_is_another_ones_uuid_is_ambiguous() -> None:
    located = {"n1": node(vm("web", A)), "n2": node(vm(A, B))}
    assert assign(located, [A]).refused[0]["result"] == "ambiguous"


def test_a_machine_that_was_moved_is_backed_up_where_it_runs() -> None:
    located = {"n1": node(vm("web", A, active=False)), "n2": node(vm("web", A))}
    for wanted in (["web"], [A], []):
        assignment = assign(located, wanted)
        assert assignment.here == {"n2": [A]}
        [skipped] = assignment.skipped
        assert (skipped["vm"], skipped["node"], skipped["result"]) == ("web", "n1", "skipped")
        assert "runs on n2" in skipped["message"]


def test_a_machine_that_runs_nowhere_is_backed_up_wherever_it_is_defined() -> None:
    located = {"n1": node(vm("web", A, active=False)), "n2": node(vm("web", A, active=False))}
    assert assign(located, ["web"]).here == {"n1": [A], "n2": [A]}


def test_a_node_not_asked_yet_is_neither_searched_nor_silent() -> None:
    assignment = assign({"n1": node(vm("web", A)), "n2": {}}, [])
    assert (assignment.searched, assignment.silent) == (["n1"], [])


MACHINES = st.lists(
    st.builds(vm, st.sampled_from(["web", "db", "mail"]), st.sampled_from([A, B, C]), st.booleans()),
    max_size=3,
    unique_by=lambda item: item["uuid"],
)
FLEETS = st.dictionaries(st.sampled_from(["n1", "n2", "n3"]), st.one_of(MACHINES, st.just(None)), max_size=3)


@given(FLEETS, st.lists(st.sampled_from(["web", "db", "mail", "none", A, B]), max_size=4, unique=True))
def test_everything_asked_for_is_placed_or_refused(fleet: dict[str, Any], wanted: list[str]) -> None:
    located = {name: DEAD if vms is None else node(*vms) for name, vms in fleet.items()}
    assignment = assign(located, wanted)
    refused = {item["vm"] for item in assignment.refused}
    for text in wanted:
        matches = {item["uuid"] for vms in fleet.values() for item in vms or [] if text in (item["name"], item["uuid"])}
        assert (text in refused) == (len(matches) != 1)
        if len(matches) == 1:
            assert any(matches <= set(uuids) for uuids in assignment.here.values())
    for name, uuids in assignment.here.items():
        defined = {item["uuid"] for item in fleet[name] or []}
        assert len(set(uuids)) == len(uuids)
        assert set(uuids) <= defined
