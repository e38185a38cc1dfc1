# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A person with a browser signs in, makes a backup, holds, restores and deletes it. Each test goes on from the last."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.bed.guest import CONNECT, run
from tests.bed.panel import MAIL, WEB
from tests.integration.ui.conftest import NAME, PASSWORD, Bed

TRICK = '<img src=x onerror="document.title=1">'
TRICK_UUID = "11111111-2222-3333-4444-555555555555"
_SECONDS = 90_000
_NOW = time.time()
_SEND = """async ([path, token]) => {
    const answer = await fetch(path, {method: "POST", body: new URLSearchParams({csrf_token: token})});
    return answer.status;
}"""


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser window; the certificate is one of our own."""
    made = browser.new_context(ignore_https_errors=True, viewport={"width": 1180, "height": 820})
    yield made
    made.close()


@pytest.fixture(scope="module")
def page(context: BrowserContext, bed: Bed) -> Iterator[Page]:
    """A page in which nothing may go wrong unseen, such as what its Content-Security-Policy forbids."""
    found, complaints = context.new_page(), []
    found.set_default_timeout(180_000)
    found.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    found.on("pageerror", lambda error: complaints.append(str(error)))
    yield found
    assert [text for text in complaints if "the server responded with a status of" not in text] == []


def sign_in(page: Page, bed: Bed, name: str, password: str = PASSWORD, code: str = "") -> None:
    """Fill in the form."""
    page.goto(bed.url)
    page.get_by_label("E-mail address or name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_label("One-time code").fill(code)
    page.get_by_role("button", name="Sign in").click()


def machine(page: Page, bed: Bed) -> None:
    """Go to the page of the guest."""
    page.goto(f"{bed.url}vms/{bed.guest.uuid}")


def watch(page: Page) -> str:
    """Look at a job until it is over, without loading the page again; its last log."""
    page.evaluate("window.sameDocument = true")
    over = page.locator("#job .tag:not(.held)").first
    over.wait_for(timeout=_SECONDS)
    assert page.evaluate("window.sameDocument"), "the page was loaded again"
    log = page.locator("#job pre").inner_text()
    assert over.inner_text() == "done", log
    return log


def keep(page: Page, name: str) -> None:
    """A picture for the documentation, if somebody wants one."""
    place = os.environ.get("VMFORGE_UI_PICTURES")
    if place:
        page.screenshot(path=str(Path(place) / f"{name}.png"))


@pytest.mark.parametrize(
    ("name", "password", "why"),
    [
        ("op@example.com", "wrong", "password"),
        ("nobody@example.com", PASSWORD, "unknown"),
        ("locked@example.com", PASSWORD, "locked"),
        ("customer@example.com", PASSWORD, "no right"),
        ("code@example.com", PASSWORD, "code"),
    ],
)
def test_who_may_not_sign_in(page: Page, bed: Bed, name: str, password: str, why: str) -> None:
    sign_in(page, bed, name, password)
    expect(page.get_by_role("alert")).to_contain_text("The name, the password or the code is wrong")
    assert bed.audit()[-1]["refused"] == why


def test_a_code_opens_the_door_and_signing_out_closes_it(page: Page, bed: Bed) -> None:
    sign_in(page, bed, "code@example.com", code=bed.totp.now())
    expect(page.get_by_role("heading", name="Machines")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    page.goto(bed.url)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_the_list_and_the_search(page: Page, bed: Bed) -> None:
    bed.server.sql(f"INSERT INTO vm_instances (uuid, node_id, name, type) VALUES ('{TRICK_UUID}', 2, '{TRICK}', 'kvm')")
    sign_in(page, bed, "op@example.com")
    row = page.get_by_role("row", name=re.compile(NAME))
    expect(row).to_contain_text("node1")
    expect(row).to_contain_text("never")
    # Such a name is text, there and on a page of its own.
    page.get_by_role("link", name=TRICK).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(TRICK)
    assert page.title() == f"{TRICK} · VMForge"
    page.goto(bed.url)
    page.get_by_label("Search").press_sequentially("node2")
    expect(page.locator(".count")).to_have_text("2 of 4 machines")
    bed.server.sql(f"DELETE FROM vm_instances WHERE uuid = '{TRICK_UUID}'")
    [cookie] = page.context.cookies()
    flags = (cookie["name"], cookie["httpOnly"], cookie["secure"], cookie["sameSite"])
    assert flags == ("__Host-vmforge-backup", True, True, "Strict")


def test_a_backup_is_made_watched_and_alone(page: Page, bed: Bed) -> None:
    machine(page, bed)
    page.get_by_role("button", name="Back up now").click()
    expect(page.locator("#job .tag").first).to_have_text("under way")
    job = page.url
    machine(page, bed)
    page.get_by_role("button", name="Back up now").click()
    expect(page.get_by_role("alert")).to_contain_text("op@example.com started a backup")
    expect(page.get_by_role("alert")).to_contain_text("Wait until it is done")
    page.goto(job)
    assert "created" in watch(page)
    [manifest] = bed.manifests()
    machine(page, bed)
    row = page.get_by_role("row", name=re.compile(manifest["id"]))
    expect(row).to_contain_text("ready")
    expect(row).to_contain_text("newest good")
    [line] = [line for line in bed.audit() if "job" in line]
    assert (line["event"], line["by"], line["address"]) == ("backup started", "op@example.com", "127.0.0.1")


def test_a_hold_protects(page: Page, bed: Bed) -> None:
    [manifest] = bed.manifests()
    page.get_by_role("link", name=f"Hold {manifest['id']}").click()
    page.get_by_label("Reason").fill("the audit of 2026")
    page.get_by_role("button", name="Hold").click()
    watch(page)
    machine(page, bed)
    expect(page.locator(".tag.held")).to_have_text("held: the audit of 2026")
    page.get_by_role("link", name="Delete").click()
    expect(page.locator("main")).to_contain_text("Held, and so not to be deleted")
    expect(page.locator("button.danger")).to_have_count(0)


def test_a_reader_looks_and_does_not_act(browser: Browser, page: Page, bed: Bed) -> None:
    with browser.new_context(
        ignore_https_errors=True,
        color_scheme="dark",
        viewport={"width": 390, "height": 844},
        # Who asks is what nginx sees.
        extra_http_headers={"X-Forwarded-For": "192.0.2.1"},
    ) as one:
        mine = one.new_page()
        sign_in(mine, bed, "reader@example.com")
        machine(mine, bed)
        expect(mine.locator("main")).to_contain_text("held: the audit of 2026")
        expect(mine.get_by_role("button", name="Back up now")).to_have_count(0)
        assert mine.evaluate("document.documentElement.scrollWidth") <= 390
        keep(mine, "phone")
        # With a token of theirs, and with one of somebody else.
        path = f"{bed.url}vms/{bed.guest.uuid}/create"
        theirs = mine.locator("[name=csrf_token]").first.get_attribute("value")
        others = page.locator("[name=csrf_token]").first.get_attribute("value")
        assert mine.evaluate(_SEND, [path, theirs]) == 403
        assert mine.evaluate(_SEND, [path, others]) == 400
        mine.get_by_role("link", name="Policy").click()
        expect(mine.get_by_role("button", name="Save")).to_have_count(0)
    assert bed.audit()[-1] | {"at": ""} == {
        "at": "",
        "event": "refused",
        "by": "reader@example.com",
        "address": "127.0.0.1",
        "path": f"/admin/backups/vms/{bed.guest.uuid}/create",
    }


def test_a_new_machine_is_made_of_it(page: Page, bed: Bed) -> None:
    new = f"{bed.guest.name}-new"
    machine(page, bed)
    page.get_by_role("link", name="Restore").click()
    page.get_by_label("New name").fill(new)
    page.get_by_role("button", name="Restore as new").click()
    try:
        watch(page)
        assert "shut off" in run(["virsh", "-q", "-c", CONNECT, "domstate", new]).stdout
        assert bed.guest.state() == "running"
    finally:
        run(["virsh", "-q", "-c", CONNECT, "undefine", new, "--nvram"])


def test_a_policy_shows_what_it_would_do(page: Page, bed: Bed) -> None:
    _age(bed, 20)
    machine(page, bed)
    keep(page, "machine")
    page.get_by_role("link", name="Policy").click()
    page.get_by_label("Days", exact=True).press_sequentially("3")
    page.get_by_label("Weeks").press_sequentially("0")
    page.get_by_label("Months").press_sequentially("0")
    preview = page.locator("#preview")
    expect(preview).to_contain_text("would keep 4")
    expect(preview).to_contain_text("More would go:")
    expect(preview).to_contain_text("no rule keeps it")
    keep(page, "policy")
    page.get_by_role("button", name="Save").click()
    watch(page)
    [row] = bed.server.sql(f"SELECT * FROM backup_policies WHERE vm_uuid = '{bed.guest.uuid}'")
    assert (row["keep_daily"], row["keep_weekly"], row["keep_monthly"], row["max_total_gb"]) == (3, 0, 0, None)


def test_it_is_freed_and_deleted(page: Page, bed: Bed) -> None:
    [manifest] = bed.manifests()
    machine(page, bed)
    page.get_by_role("row", name=re.compile(manifest["id"])).get_by_role("button", name="Free").click()
    watch(page)
    machine(page, bed)
    page.get_by_role("link", name=f"Delete {manifest['id']}").click()
    expect(page.locator("main")).to_contain_text(manifest["id"])
    page.get_by_role("button", name="Delete it").click()
    watch(page)
    assert bed.manifests() == []
    machine(page, bed)
    expect(page.get_by_role("link", name=f"Delete {manifest['id']}")).to_have_count(0)
    page.get_by_role("link", name="Work").click()
    expect(page.locator("tbody tr")).to_have_count(6)
    keep(page, "work")


def test_keys_alone_are_enough(page: Page, bed: Bed) -> None:
    page.goto(bed.url)
    # It comes by itself, after the list.
    expect(page.locator("svg.chart")).to_be_visible()
    keep(page, "machines")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Search")).to_be_focused()


def _age(bed: Bed, days: int) -> None:
    """Rows of older backups, as nodes would have recorded them: of the guest in chains of four, of others many gone."""
    rows = []
    for day in range(1, days):
        parent = None if day % 4 == 3 else _id(day + 1)
        rows.append(_row(bed.guest.uuid, day, (900 if parent is None else 40) << 20, parent=parent))
    for day in range(90):
        gone = day - 7 if day > 7 and day % 7 else None
        rows.append(_row(WEB, day, 1500 << 20, gone=gone))
        rows.append(_row(MAIL, day, 700 << 20, gone=gone, storage="local"))
    bed.server.sql(
        "SET time_zone = '+00:00'",
        "INSERT INTO backups (vm_uuid, created_at, type, size_bytes, checksum_sha256, storage, path, meta, status) "
        f"VALUES {', '.join(rows)}",
    )


def _id(day: int) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(_NOW - day * 86400))


def _row(
    uuid: str, day: int, size: int, *, parent: str | None = None, gone: int | None = None, storage: str = "hybrid"
) -> str:
    instant = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_NOW - day * 86400))
    copies = ["local", "s3"] if storage == "hybrid" else ["local"]
    results = [{"copy": copy, "ok": True, "at": instant} for copy in copies]
    meta = {
        # Not one that is asked what it has.
        "node": "node2",
        "id": _id(day),
        "vm_name": "any",
        "instant": instant,
        "state": "ready",
        "consistency": "quiesced",
        "copies": copies,
        "parent": {"id": parent, "manifest_sha256": "a" * 64} if parent else None,
        "verified": {"manifest_sha256": "a" * 64, "results": results} if day else None,
    }
    if gone is not None:
        meta["deleted_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_NOW - gone * 86400))
    kind, status = "incremental" if parent else "full", "ready" if gone is None else "deleted"
    return (
        f"('{uuid}', '{instant[:10]} {instant[11:19]}', '{kind}', {size}, REPEAT('a', 64), '{storage}', "
        f"'/srv/{uuid}/{_id(day)}', '{json.dumps(meta)}', '{status}')"
    )
