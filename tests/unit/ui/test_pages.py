# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pages say and do, and what they refuse."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pyotp
import pytest

from tests.unit.ui.conftest import NAME, PASSWORD, URL, VM, Site, entry, shared
from vmforge_backup_ui.app import create_app
from vmforge_backup_ui.auth import READER, Account, Accounts
from vmforge_backup_ui.sessions import IDLE_SECONDS
from vmforge_backup_ui.views_sign_in import _own

FIRST, SECOND, THIRD = "20261101T010000Z", "20261102T010000Z", "20261103T010000Z"
ONE = f"/vms/{VM}/backups/{SECOND}"
PAGES = ("/", f"/vms/{VM}", f"{ONE}/delete", f"{ONE}/hold", f"{ONE}/restore", f"/vms/{VM}/policy", "/jobs")
ACTIONS = (
    f"/vms/{VM}/create",
    f"/vms/{VM}/verify",
    f"{ONE}/delete",
    f"{ONE}/hold",
    f"{ONE}/free",
    f"{ONE}/verify",
    f"{ONE}/restore",
    f"/vms/{VM}/policy",
    "/refresh",
    "/status",
    "/other",
)


def test_a_wrong_password_and_a_wrong_name_look_alike(site: Site) -> None:
    answers = [site.sign_in(password="wrong"), site.sign_in(name="nobody", password="wrong"), site.sign_in(name="a@b")]
    texts = {
        answer.text.replace('value="nobody"', "").replace('value="a@b"', "").replace('value="admin"', "")
        for answer in answers
    }
    assert {answer.status_code for answer in answers} == {401}
    assert len({text[text.index("<p class") : text.index("</p>")] for text in texts}) == 1
    assert [line["refused"] for line in site.audit()] == ["password", "unknown", "unknown"]
    assert PASSWORD not in str(site.audit())


def test_signing_in_and_out(site: Site) -> None:
    site.list()
    token = site.token()
    assert site.client.get(f"{URL}/").headers["Location"] == f"{URL}/sign-in?next={URL}/"
    answer = site.sign_in(next=f"{URL}/jobs")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{URL}/jobs")
    assert site.client.get(f"{URL}/").status_code == 200
    # The form of before belongs to nobody any more.
    assert site.client.post(f"{URL}/sign-out", data={"csrf_token": token}).status_code == 400
    cookie = site.client.get_cookie("vmforge-backup")
    assert cookie is not None
    assert (cookie.http_only, cookie.same_site) == (True, "Strict")
    assert site.post("/sign-out").status_code == 303
    # A copy of the cookie is worth nothing.
    site.client.set_cookie("vmforge-backup", cookie.value)
    assert site.client.get(f"{URL}/").status_code == 303


@pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", f"{URL}/../x", "/other", f"{URL}/\\x"])
def test_nobody_is_sent_elsewhere(site: Site, target: str) -> None:
    assert site.sign_in(next=target).headers["Location"] == f"{URL}/"


def test_nor_where_the_pages_begin_at_the_first_stroke(site: Site) -> None:
    app = create_app(replace(shared(site).config, url="/"))
    with app.test_request_context("/"):
        targets = ("//evil.example", "/jobs", "/jobs?next=//x", "https://evil.example")
        assert [_own(target) for target in targets] == ["", "/jobs", "/jobs?next=//x", ""]


def test_a_session_that_somebody_else_made_is_worth_nothing(site: Site) -> None:
    site.list()
    site.token()
    before = site.client.get_cookie("vmforge-backup")
    assert before is not None
    assert site.sign_in().status_code == 303
    first = site.client.get_cookie("vmforge-backup")
    assert site.sign_in().status_code == 303
    # Neither that of before, nor one that another sign-in has replaced.
    for cookie in (before, first):
        assert cookie is not None
        site.client.set_cookie("vmforge-backup", cookie.value)
        assert site.client.get(f"{URL}/").status_code == 303


def test_another_password_ends_all_sessions(inside: Site) -> None:
    config = shared(inside).config
    assert inside.client.get(f"{URL}/").status_code == 200
    assert config.admin is not None
    for change in ({"password_hash": "$2b$04$x"}, {"totp_secret": "JBSWY3DPEHPK3PXP"}, {"name": "root"}):
        shared(inside).accounts = Accounts(replace(config, admin={**config.admin, **change}))
        assert inside.client.get(f"{URL}/").status_code == 303, change
    shared(inside).accounts = Accounts(config)
    assert inside.client.get(f"{URL}/").status_code == 200


def test_a_page_that_asks_by_itself_is_nobody(inside: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def at(second: float) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: began + second)

    began, itself = time.monotonic(), {"HX-Request": "true"}
    for second in range(0, IDLE_SECONDS, 60):
        at(second)
        assert inside.client.get(f"{URL}/jobs", headers=itself).status_code == 200
    at(IDLE_SECONDS + 1)
    assert inside.client.get(f"{URL}/jobs", headers=itself).status_code == 401


def test_a_code_is_taken_once(inside: Site) -> None:
    secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
    config = shared(inside).config
    assert config.admin is not None
    shared(inside).accounts = Accounts(replace(config, admin={**config.admin, "totp_secret": secret}))
    code = pyotp.TOTP(secret).now()
    answers = [inside.sign_in(code=given) for given in ("", code, code)]
    assert [answer.status_code for answer in answers] == [401, 303, 401]
    assert [line.get("refused") for line in inside.audit()[-3:]] == ["code", None, "code"]


def test_a_name_writes_no_line_of_the_log(site: Site) -> None:
    trick = 'a@b\n{"event": "sign-in", "by": "admin"}\r\u2028\x1b[2J'
    site.sign_in(name=trick, password="wrong")
    [line] = site.audit()
    assert (line["by"], line["refused"]) == (trick, "unknown")
    text = (site.place / "audit.log").read_text()
    assert text.isascii()
    assert text.count("\n") == 1
    assert "\x1b" not in text


def test_who_asks_is_not_what_a_header_says(site: Site) -> None:
    for number in range(20):
        forged = {
            "X-Forwarded-For": f"192.0.2.{number}",
            "X-Real-IP": f"192.0.2.{number}",
            "Forwarded": "for=192.0.2.1",
        }
        form = {"csrf_token": site.token(), "name": f"n{number}", "password": "wrong"}
        assert site.client.post(f"{URL}/sign-in", data=form, headers=forged).status_code == 401
    assert site.sign_in(name="n21").status_code == 429
    assert {line["address"] for line in site.audit()} == {"127.0.0.1"}


def test_a_list_that_cannot_be_read_is_no_failure_of_theirs(site: Site) -> None:
    (site.place / "list.json").write_text("{")
    for number in range(25):
        assert site.sign_in(name=f"n{number}@example.com").status_code == 503
    site.list()
    assert site.sign_in().status_code == 303


def test_too_many_failures_close_the_door(site: Site) -> None:
    for _number in range(10):
        assert site.sign_in(password="wrong").status_code == 401
    answer = site.sign_in()
    assert answer.status_code == 429
    assert "Try again in 15 min" in answer.text
    # Somebody else at the same address may still try, up to a limit of its own.
    for number in range(10):
        assert site.sign_in(name=f"n{number}").status_code == 401
    assert site.sign_in(name="n11").status_code == 429


def test_without_a_session_nothing_is_shown_or_done(site: Site) -> None:
    site.list(entry(FIRST), entry(SECOND))
    token = site.token()
    for page in (*PAGES, "/stored"):
        answer = site.client.get(URL + page)
        assert (answer.status_code, "20261101" in answer.text) == (303, False), page
    for page in ACTIONS:
        assert site.client.post(URL + page, data={"csrf_token": token}).status_code == 401, page
    assert site.runner.orders == []


def test_a_forged_form_does_nothing(inside: Site) -> None:
    for page in ACTIONS:
        for form in ({}, {"csrf_token": "x"}, {"csrf_token": "IjAwMDAi.aaaaaa.bbbbbbbbbbb"}):
            answer = inside.client.post(URL + page, data=form)
            assert answer.status_code == 400, page
            assert "Nothing was done" in answer.text
    assert inside.runner.orders == []


def test_an_action_is_no_link(inside: Site) -> None:
    for page in (f"/vms/{VM}/create", f"{ONE}/free", f"{ONE}/verify", "/refresh", "/sign-out"):
        assert inside.client.get(URL + page).status_code == 405, page


def test_a_reader_sees_all_and_changes_nothing(inside: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Account("admin", READER)
    monkeypatch.setattr(Accounts, "again", lambda *_unused: reader)
    for page in ("/", f"/vms/{VM}", f"/vms/{VM}/policy", "/jobs"):
        text = inside.client.get(URL + page).text
        assert "(reader)" in text
        assert not any(word in text for word in ("Back up now", "/delete", "/restore", "Look at all")), page
    token = inside.token("/")
    for page in ACTIONS:
        assert inside.client.post(URL + page, data={"csrf_token": token}).status_code == 403, page
    assert inside.runner.orders == []
    assert inside.audit()[-1]["event"] == "refused"


def test_names_and_reasons_are_text(inside: Site) -> None:
    hold = {"reason": NAME, "by": '"><img src=x>', "until": None}
    inside.list(entry(FIRST, name=NAME, hold=hold, error="<b>"), entry(SECOND, name=NAME, parent=FIRST))
    job = {"job": "20261122T151200Z-0123abcd", "action": "hold", "vm": VM, "name": NAME, "by": NAME, "message": NAME}
    times = {"state": "failed", "began": "2026-11-22T15:12:00Z", "ended": None}
    inside.runner.jobs = [{**job, **times, "values": {"reason": NAME}}]
    for page in (*PAGES, "/jobs/20261122T151200Z-0123abcd"):
        text = inside.client.get(URL + page).text
        assert "<script>alert" not in text, page
        assert "<img src=x" not in text, page
        assert "&lt;script&gt;" in text, page


@pytest.mark.parametrize(
    "page",
    [
        "/vms/..%2f..%2fetc",
        "/vms/../../etc/passwd",
        f"/vms/{VM.upper()}",
        f"/vms/{VM}%00",
        f"/vms/{VM}/backups/..%2f..%2fx/delete",
        f"/vms/{VM}/backups/latest/delete",
        f"/vms/{VM}/backups/20261102T010000Z%0a/delete",
        f"/vms/{VM}/backups/20250101T000000Z/delete",
        f"/vms/{VM[:-1]}0/policy",
        "/jobs/..%2f..%2fetc",
        "/jobs/20261122T151200Z-0123abce",
        "/static/..%2fapp.py",
        "/static/../app.py",
    ],
)
def test_paths_and_ids_lead_nowhere_else(inside: Site, page: str) -> None:
    answer = inside.client.get(URL + page)
    assert answer.status_code == 404
    assert "import" not in answer.text


def test_a_machine_has_a_table_with_chains_and_fates(inside: Site) -> None:
    text = inside.client.get(f"{URL}/vms/{VM}").text
    assert text.count("builds on <a") == 2
    assert 'class="chain d2"' in text
    assert "ancestor of" in text or "daily 2026-11-01" in text
    assert "<strong>3</strong> stay" in text
    text = inside.client.get(f"{URL}/?q=WEB").text
    assert "1 machine" in text
    assert "No machine matches" in inside.client.get(f"{URL}/?q=other").text
    assert "<html" not in inside.client.get(f"{URL}/?q=web", headers={"HX-Request": "true"}).text


def test_the_list_fetches_its_chart_and_a_link_leads_to_it(inside: Site) -> None:
    text = inside.client.get(f"{URL}/").text
    assert f'hx-get="{URL}/stored" hx-trigger="load"' in text
    assert f'<a href="{URL}/stored">' in text
    part, page = (inside.client.get(f"{URL}/stored", headers=head).text for head in ({"HX-Request": "true"}, {}))
    assert ("<html" in part, "<html" in page) == (False, True)
    assert all("3 MiB now" in found and "<svg" in found for found in (part, page))
    inside.list()
    assert "Nothing yet" in inside.client.get(f"{URL}/stored").text


def test_what_cannot_be_written_down_is_not_done(inside: Site) -> None:
    inside.client.application.testing = False
    (inside.place / "audit.log").unlink()
    (inside.place / "audit.log").mkdir()
    assert inside.post(f"/vms/{VM}/create").status_code == 500
    assert inside.runner.orders == []


def test_a_part_of_a_page_leads_to_the_door(site: Site) -> None:
    answer = site.client.get(f"{URL}/jobs", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, f"{URL}/sign-in")


def test_what_each_button_asks_for(inside: Site) -> None:
    job = f"{URL}/jobs/20261122T151200Z-0123abcd"
    assert inside.post(f"/vms/{VM}/create").headers["Location"] == job
    inside.post(f"{ONE}/delete", children="yes", ids=f"{THIRD},{SECOND}")
    inside.post(f"{ONE}/hold", reason="audit", until="2027-01-31")
    inside.post(f"{ONE}/free")
    inside.post(f"{ONE}/verify")
    inside.post(f"/vms/{VM}/verify")
    inside.post(f"{ONE}/restore", mode="new", to="web1-copy", disconnect="yes")
    inside.post(f"{ONE}/restore", mode="place", confirm="web1", force="yes", start="yes")
    inside.post(f"/vms/{VM}/policy", keep_daily="3", offsite="s3")
    inside.post("/refresh")
    inside.post("/status")
    inside.post("/other", name="web2")
    policy = {"keep_daily": 3, "offsite": "s3", "delete_local_after_upload": False}
    assert [(order["action"], order["vm"], order["values"]) for order in inside.runner.orders] == [
        ("backup", VM, {}),
        ("delete", VM, {"ids": [THIRD, SECOND]}),
        ("hold", VM, {"id": SECOND, "reason": "audit", "until": "2027-01-31T23:59:59Z"}),
        ("free", VM, {"id": SECOND}),
        ("verify", VM, {"id": SECOND}),
        ("verify", VM, {}),
        ("restore", VM, {"id": SECOND, "start": False, "to": "web1-copy", "disconnect": True}),
        ("restore", VM, {"id": SECOND, "start": True, "force": True}),
        ("policy", VM, policy),
        ("list", "", {}),
        ("status", "", {}),
        ("backup", "web2", {}),
    ]
    assert {order["by"] for order in inside.runner.orders} == {"admin"}
    events = [line["event"] for line in inside.audit()]
    assert events[1:6] == ["backup", "backup started", "delete", "delete started", "hold"]


def test_what_is_refused_before_it_is_asked_for(inside: Site) -> None:
    assert "build on" in inside.post(f"{ONE}/delete").text
    assert "look again" in inside.post(f"{ONE}/delete", children="yes", ids=SECOND).text
    assert "write the name" in inside.post(f"{ONE}/restore", mode="place", confirm="web2").text
    assert "Give the new machine a name" in inside.post(f"{ONE}/restore", mode="new").text
    assert "whole number" in inside.post(f"/vms/{VM}/policy", keep_daily="-1").text
    assert inside.runner.orders == []


def test_the_question_names_what_goes(inside: Site) -> None:
    text = inside.client.get(f"{URL}{ONE}/delete").text
    for part in (SECOND, THIRD, "1 backup builds on it", "1 complete backup stays", "Delete 2"):
        assert part in text
    inside.list(entry(SECOND, hold={"reason": "audit", "by": "me", "until": None}))
    text = inside.client.get(f"{URL}{ONE}/delete").text
    assert "No backup of web1 is left" in text
    assert "Held, and so not to be deleted" in text
    assert 'class="danger"' not in text


def test_somebody_else_is_at_work(inside: Site) -> None:
    inside.runner.answer = {"error": "busy", "message": "me started a backup of web1 at 12:00"}
    answer = inside.post(f"/vms/{VM}/create")
    assert (answer.status_code, "me started a backup" in answer.text) == (409, True)
    assert [line["event"] for line in inside.audit()[-2:]] == ["backup", "backup refused"]


def test_a_runner_that_is_away_stops_no_looking(inside: Site) -> None:
    inside.runner.path.unlink()
    assert "does not answer" in inside.client.get(f"{URL}/").text
    answer = inside.post(f"/vms/{VM}/create")
    assert (answer.status_code, "vmforge-backup-ui-runner" in answer.text) == (503, True)


def test_headers_forbid_what_is_not_ours(inside: Site) -> None:
    for page in ("/", f"/vms/{VM}", "/static/style.css", "/nothing"):
        with inside.client.get(URL + page) as answer:
            headers = answer.headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; ")
        assert headers["X-Content-Type-Options"] == "nosniff"
    text = "".join(inside.client.get(URL + page).text for page in PAGES)
    for word in (" style=", " onclick", "javascript:", "<script>", "http://", "https://"):
        assert word not in text, word


def test_progress_and_log_of_a_job(inside: Site) -> None:
    job = {"job": "20261122T151200Z-0123abcd", "action": "backup", "vm": VM, "name": "web1", "by": "me", "values": {}}
    times = {"state": "running", "began": "2026-11-22T15:12:00Z", "ended": None}
    inside.runner.jobs = [{**job, **times, "task": "Back up", "percent": 42, "text": "1.9 GiB"}]
    text = inside.client.get(f"{URL}/jobs/{job['job']}", headers={"HX-Request": "true"}).text
    assert 'hx-trigger="every 1s"' in text
    assert 'value="42"' in text
    assert 'value="42"' in inside.client.get(f"{URL}/").text
    inside.runner.jobs[0].update(state="done", ended="2026-11-22T15:13:00Z")
    assert "hx-trigger" not in inside.client.get(f"{URL}/jobs/{job['job']}", headers={"HX-Request": "true"}).text


_TEXT = {
    "back": ("text", "soft", "accent"),
    "card": ("text", "soft", "accent", "good", "bad", "held"),
    "accent": ("on-accent",),
    "good-back": ("good",),
    "bad-back": ("bad", "text"),
    "warn-back": ("warn", "text"),
    "held-back": ("held",),
    "goes-back": ("text", "soft", "bad", "accent"),
}


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_can_be_told_from_what_is_behind_it(inside: Site, scheme: int) -> None:
    """As WCAG 2 demands at level AA: 4.5 to 1 for text, 3 to 1 for shapes."""
    with inside.client.get(f"{URL}/static/style.css") as answer:
        blocks = re.findall(r":root \{(.*?)\}", answer.text, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): #([0-9a-f]+)", blocks[scheme]))
    for behind, texts in _TEXT.items():
        for text in texts:
            assert contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    for shape in ("local", "s3", "good", "bad", "held", "soft"):
        assert contrast(colours[shape], colours["card"]) >= 3, shape


def contrast(one: str, other: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio"""
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """Of six hexadecimal digits, or three."""
    digits = colour if len(colour) == 6 else "".join(digit * 2 for digit in colour)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
