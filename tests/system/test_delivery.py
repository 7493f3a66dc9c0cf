"""Every way in which mail leaves the queue on this host, from a client's RCPT to the mailbox, program or service."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import sys
import threading
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pillarbox.testing import ScriptedPeer

QUICK = """
[limits]
min_free = 0
[queue.retry]
first = "50ms"
max = "200ms"
"""
LISTEN = '[[listen]]\naddress = "127.0.0.1:0"\n'
AWKWARD = b"".join(
    [
        b"From: a@sender.example\r\nSubject: =?utf-8?q?a?=\r\n",
        b"X-Folded: one\r\n two\r\n\r\n",
        b".\r\n..\r\n.a line with a dot\r\n",
        "Grüße, 8 bit\r\n".encode(),
        b"\xff\x00\xfe no charset at all\r\n".replace(b"\x00", b"\x01"),
        b"long " + b"x" * 3980 + b"\r\n",
        b"\r\n\r\n \t \r\nFrom here it goes on\r\n.\r\n\r\n",
    ]
)


def without_fields(octets):
    """A delivered copy without the fields that this server put in front, line ends as they were sent."""
    return octets.replace(b"\n", b"\r\n")[octets.replace(b"\n", b"\r\n").index(b"From: a@sender") :]


# --- Maildir


@pytest.fixture
def maildir(tmp_path):
    return f"""{QUICK}{LISTEN}
[domain."example.org"]
deliver = "maildir:{tmp_path}/mail/{{user}}"
[domain."sorted.example"]
deliver = "maildir:{tmp_path}/mail/{{domain}}/{{user}}/.{{tag}}"
[domain."sender.example"]
deliver = "maildir:{tmp_path}/mail/{{user}}"
"""


@pytest.mark.parametrize("times", [1, 30], ids=["small", "in a file of its own"])
async def test_a_message_arrives_whole(serve, send, mailbox, maildir, times):
    server = await serve(maildir)
    message = AWKWARD + b"".join([AWKWARD] * (times - 1))
    sent = await send(
        server.port, "Alice@example.org", message=message, sender="a@sender.example BODY=8BITMIME"
    )
    (found,) = await mailbox("alice").filled()
    octets = mailbox("alice").raw[0]
    assert without_fields(octets) == message
    fields = octets[: octets.index(b"From: ")].decode().split("\n")
    assert fields[:2] == ["Return-Path: <a@sender.example>", "Delivered-To: Alice@example.org"]
    assert fields[2:5] == [
        "Received: from client.example ([127.0.0.1])",
        f"\tby mx.example.org (Pillarbox) with ESMTP id {sent.id}",
        "\tfor <Alice@example.org>;",
    ]
    assert found["subject"] == "a"
    assert b"\r" not in octets
    assert (await server.reached("delivered", sent.id))["reply"].startswith("250 2.0.0 ")
    assert server.queue() == []


async def test_many_at_once_get_names_of_their_own_and_leave_nothing_behind(serve, send, mailbox, maildir):
    server = await serve(maildir)
    sent = await asyncio.gather(
        *(send(server.port, "alice@example.org", "bob@example.org") for _ in range(25))
    )
    found = await mailbox("alice").filled(25) + await mailbox("bob").filled(25)
    assert len({message["received"] for message in found}) == 25
    names = [file.name for user in ("alice", "bob") for file in mailbox(user).files]
    assert len(set(names)) == 50
    assert not any(set(name) & set(":/,") for name in names)
    for user in ("alice", "bob"):
        assert list((mailbox(user).folder / "tmp").iterdir()) == []
        assert {file.stat().st_mode & 0o777 for file in mailbox(user).files} == {0o600}
    for one in sent:
        await server.reached("delivered", one.id, 1)


HOSTILE = [
    "../x",
    '"../x"',
    '"../../../../tmp/x"',
    '"/etc/x"',
    "a/b",
    '"a/b"',
    '"a\\/b"',
    '""',
    '" "',
    '"."',
    '".."',
    "..",
    '".hidden"',
    '"a\x00b"',
    "a\x00b",
    '"a\x01b"',
    '"a\\\x01b"',
    '"a\nb"',
    "cur",
    "new",
    "tmp",
    "a+../x",
    '"a+../../x"',
    '"a+.."',
    "a+cur",
    "a+new",
    '"a b"',
    '"~root"',
    "$HOME",
    "`id`",
    "{user}",
    "%s",
    "x" * 64,
    "x" * 65,
    "x" * 300,
    "ü" * 32,
    "\udcff",
    "\u202egro",
    "a;b",
    "*",
]


async def test_no_address_leads_out_of_the_folder_of_the_mailboxes(serve, dial, mailbox, maildir, tmp_path):
    server = await serve(maildir)

    def present() -> set[Path]:
        """What lies where an address could lead; other tests' folders are looked at from outside alone."""
        inside = {path for path in tmp_path.rglob("*") if tmp_path / "data" not in path.parents}
        return inside | {*tmp_path.parent.iterdir()}

    mailbox("x")
    before = present()
    taken = []
    for domain in ("example.org", "sorted.example"):
        for local in HOSTILE:
            address = f"{local}@{domain}".encode("utf-8", "surrogateescape")
            caller = await dial(server.port)
            await caller.reply()
            await caller.ask(b"EHLO client.example")
            await caller.ask(b"MAIL FROM:<a@sender.example> SMTPUTF8")
            if (await caller.ask(b"RCPT TO:<" + address + b">")).startswith(b"250"):
                await caller.ask(b"DATA")
                taken.append((await caller.ask(b"From: a@sender.example\r\n\r\nx\r\n.")).split()[-1].decode())
            await caller.send(b"QUIT\r\n")
            caller.cut()
    for queue_id in taken:
        await server.reached("delivered", queue_id)
    mail = tmp_path / "mail"
    new = present() - before
    assert all(mail in path.parents for path in new)
    copies = [path for path in new if path.is_file()]
    assert len(copies) == len(taken)
    for copy in copies:
        box = copy.parent.parent.relative_to(mail).parts
        assert copy.parent.name == "new"
        assert len(box) == 1 or box[0] == "sorted.example"
        assert box[-1] not in {"cur", "new", "tmp"} or len(box) == 1 or box[0] == "sorted.example"


async def test_a_link_in_place_of_a_mailbox_is_not_followed(serve, send, mailbox, maildir, tmp_path):
    server = await serve(maildir)
    (tmp_path / "secret").mkdir()
    mailbox("alice").folder.symlink_to(tmp_path / "secret")
    sent = await send(server.port, "alice@example.org")
    waiting = await server.until(lambda: (one := server.recipient(sent.id))["attempts"] >= 2 and one)
    assert (waiting["state"], waiting["cause"]) == ("queued", "delivery.mailbox_failed")
    assert list((tmp_path / "secret").iterdir()) == []
    mailbox("alice").folder.unlink()
    await server.reached("delivered", sent.id)
    assert len(mailbox("alice").files) == 1


# --- programs

PROGRAM = """#!/bin/sh
# what to do stands in the user's name
case "$1" in
    exit*) echo "said by the program"; cat >/dev/null; exit "${1#exit}" ;;
    unread*) exit "${1#unread}" ;;
    kill) kill -KILL $$ ;;
    crash) kill -SEGV $$ ;;
    hang) sleep 300 & echo "$!" >"$2/child"; wait ;;
    flood) yes | head -c 1000000; exit 75 ;;
    keep) cat >"$2/stdin" ;;
esac
"""
DUMP = """
import json, os, sys
with open(sys.argv[1], "w") as file:
    json.dump({"arguments": sys.argv[2:], "environment": dict(os.environ), "folder": os.getcwd()}, file)
"""


@pytest.fixture
def programs(tmp_path):
    (tmp_path / "program").write_text(PROGRAM)
    (tmp_path / "dump.py").write_text(DUMP)
    return f"""{QUICK}{LISTEN}
[domain."example.org"]
deliver = "pipe:acting"
[domain."dump.example"]
deliver = "pipe:dumping"
[domain."sender.example"]
deliver = "maildir:{tmp_path}/mail/{{user}}"
[program.acting]
command = ["/bin/sh", "{tmp_path}/program", "{{user}}", "{tmp_path}"]
limit = "1s"
[program.dumping]
command = ["{sys.executable}", "{tmp_path}/dump.py", "{tmp_path}/dumped", "{{recipient}}", "u={{user}}", "{{tag}}",
    "{{domain}}", "{{queue_id}}", "from {{sender}}"]
folder = "{tmp_path}"
environment = {{ MODE = "test" }}
"""


STATUSES = {
    "exit0": ("delivered", "delivery.delivered", ""),
    "unread0": ("delivered", "delivery.delivered", ""),
    "exit65": ("failed", "delivery.program_refused", "status 65: said by the program"),
    "exit67": ("failed", "delivery.program_no_user", "said by the program"),
    "exit77": ("failed", "delivery.program_not_allowed", "said by the program"),
    "unread67": ("failed", "delivery.program_no_user", "no output"),
    "exit75": ("queued", "delivery.program_deferred", "(exit status 75): said by the program"),
    "exit1": ("queued", "delivery.program_deferred", "status 1"),
    "exit127": ("queued", "delivery.program_deferred", "status 127"),
    "kill": ("queued", "delivery.program_deferred", "signal 9"),
    "crash": ("queued", "delivery.program_deferred", "signal 11"),
    "flood": ("queued", "delivery.program_deferred", "status 75"),
}


async def test_an_exit_status_decides_what_becomes_of_the_message(serve, send, mailbox, programs):
    server = await serve(programs)
    mailbox("a")
    large = AWKWARD * 30  # more than a pipe holds: not every program reads it
    sent = {user: (await send(server.port, f"{user}@example.org", message=large)).id for user in STATUSES}
    for user, (state, cause, words) in STATUSES.items():
        least = 2 if state == "queued" else 1
        found = await server.until(
            lambda user=user, least=least: (one := server.recipient(sent[user]))["attempts"] >= least and one
        )
        assert (user, found["state"], found["cause"]) == (user, state, cause)
        assert words in found["reply"]
    reports = {report["subject"] for report in await mailbox("a").filled(4)}
    assert reports == {
        f"Not delivered: {user}@example.org" for user, (state, *_) in STATUSES.items() if state == "failed"
    }


async def test_a_program_that_hangs_is_killed_with_its_children(serve, send, programs, tmp_path):
    server = await serve(programs)
    sent = await send(server.port, "hang@example.org")
    await server.logged("delivery.deferred", message=sent.id, cause="delivery.program_timeout")
    child = int((tmp_path / "child").read_text())
    await server.until(lambda: not is_running(child))
    server.command("queue", "remove", sent.id)
    await server.reached("removed", sent.id)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def test_a_program_gets_the_message_on_standard_input(serve, send, programs, tmp_path):
    server = await serve(programs)
    sent = await send(
        server.port, "keep@example.org", message=AWKWARD, sender="a@sender.example BODY=8BITMIME"
    )
    await server.reached("delivered", sent.id)
    octets = (tmp_path / "stdin").read_bytes()
    assert octets.startswith(
        b"Return-Path: <a@sender.example>\nDelivered-To: keep@example.org\nReceived: from "
    )
    assert without_fields(octets) == AWKWARD


# local parts that would do harm if they were read by a shell, or split
LOCALS = {
    '"a; touch injected"': "a; touch injected",
    "${IFS}touch${IFS}injected": "${IFS}touch${IFS}injected",
    "`touch${IFS}injected`": "`touch${IFS}injected`",
    "a&touch": "a&touch",
    '"a b  c"': "a b  c",
    "a'b": "a'b",
    '"a\\"b"': 'a"b',
    "{sender}": "{sender}",
    "*": "*",
    "grüße": "grüße",
}
SHELL = {"PWD", "SHLVL", "_", "LC_CTYPE"}  # what an interpreter adds by itself


async def test_nothing_in_an_address_becomes_more_than_one_argument(
    serve, send, programs, tmp_path, monkeypatch
):
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "must not leak")
    server = await serve(programs)
    sender = "'a$HOME'@sender.example"
    for local, user in LOCALS.items():
        sent = await send(server.port, f"{local}@dump.example", sender=f"{sender} SMTPUTF8")
        await server.reached("delivered", sent.id)
        dumped = json.loads((tmp_path / "dumped").read_text())
        address = f"{local}@dump.example"
        assert dumped["arguments"] == [address, f"u={user}", "", "dump.example", sent.id, f"from {sender}"]
        environment = {name: value for name, value in dumped["environment"].items() if name not in SHELL}
        assert environment == {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "MODE": "test"}
        assert dumped["folder"] == str(tmp_path)
    assert not list(tmp_path.rglob("injected"))


async def test_an_address_that_a_program_would_take_for_an_option_is_returned(
    serve, send, mailbox, programs, tmp_path
):
    server = await serve(programs)
    mailbox("a")
    for local in ("-f", '"--help"', "user+-f"):
        sent = await send(server.port, f"{local}@dump.example")
        assert (await server.reached("failed", sent.id))["cause"] == "delivery.program_unsafe"
    assert not (tmp_path / "dumped").exists()
    await mailbox("a").filled(3)


# --- LMTP


async def test_lmtp_answers_for_each_recipient_that_was_accepted(serve, send, mailbox, tmp_path):
    server = await serve(f"""{QUICK}
[[listen]]
address = "127.0.0.1:0"
role = "lmtp"
[domain."example.org"]
deliver = "maildir:{tmp_path}/mail/{{user}}"
users = ["alice", "bob"]
""")
    sent = await send(server.port, "alice@example.org", "ghost@example.org", "bob@example.org", lmtp=True)
    assert [answer[:9] for answer in sent.recipients] == [b"250 2.1.5", b"550 5.1.1", b"250 2.1.5"]
    assert len(sent.replies) == 2
    assert all(reply.startswith(b"250 2.0.0 ") for reply in sent.replies)
    (found,) = await mailbox("alice").filled()
    assert "with LMTP id" in found["received"]
    await mailbox("bob").filled()
    nobody = await send(server.port, "ghost@example.org", lmtp=True)
    assert nobody.replies[0].startswith(b"503 5.5.1")  # RFC 2033 4.2


async def test_a_second_server_takes_some_recipients_by_lmtp_and_refuses_others(
    serve, send, mailbox, tmp_path
):
    behind = await serve(
        f"""{QUICK}
[[listen]]
address = "127.0.0.1:0"
role = "lmtp"
[domain."example.org"]
deliver = "maildir:{tmp_path}/mail/{{user}}"
users = ["alice", "bob"]
""",
        folder=tmp_path / "behind",
        hostname="store.example.org",
    )
    front = await serve(f"""{QUICK}{LISTEN}
[domain."example.org"]
deliver = "lmtp://127.0.0.1:{behind.port}"
[domain."sender.example"]
deliver = "maildir:{tmp_path}/mail/{{user}}"
""")
    sent = await send(
        front.port,
        "alice@example.org",
        "ghost@example.org",
        "bob@example.org",
        message=AWKWARD,
        sender="a@sender.example BODY=8BITMIME",
    )
    assert without_fields(await raw_of(mailbox("alice"))) == AWKWARD
    (found,) = await mailbox("bob").filled()
    assert [field.split(" with ")[1].split()[0] for field in found.get_all("received")] == ["LMTP", "ESMTP"]
    (report,) = await mailbox("a").filled()
    assert report["subject"] == "Not delivered: ghost@example.org"
    states = [front.recipient(sent.id, number) for number in range(3)]
    assert [one["state"] for one in states] == ["delivered", "failed", "delivered"]
    assert [one["stage"] for one in states] == ["local", "rcpt", "local"]
    assert states[1]["host"] == f"[127.0.0.1]:{behind.port}"


async def raw_of(box):
    await box.filled()
    return box.raw[0]


async def test_an_lmtp_server_may_take_the_message_for_one_and_not_for_another(
    serve, send, mailbox, tmp_path
):
    answers = ["250 2.1.5 kept", "452 4.2.2 mailbox full", "552 5.2.2 mailbox full for ever"]
    async with ScriptedPeer({".": [*answers, "250 2.1.5 kept now"]}, lmtp=True) as peer:
        server = await serve(f"""{QUICK}{LISTEN}
[domain."example.org"]
deliver = "lmtp://127.0.0.1:{peer.port}"
[domain."sender.example"]
deliver = "maildir:{tmp_path}/mail/{{user}}"
""")
        sent = await send(server.port, "one@example.org", "two@example.org", "three@example.org")
        first = await server.reached("delivered", sent.id, 0)
        second = await server.reached("delivered", sent.id, 1)
        third = await server.reached("failed", sent.id, 2)
        assert [one["attempts"] for one in (first, second, third)] == [1, 2, 1]
        assert third["reply"] == "552 5.2.2 mailbox full for ever"
        assert sum(command.startswith("RCPT TO:<two@") for command in peer.commands) == 2
        assert sum(command.startswith("RCPT TO:<one@") for command in peer.commands) == 1
        (report,) = await mailbox("a").filled()
        assert report["subject"] == "Not delivered: three@example.org"


# --- web services


class Service(ThreadingHTTPServer):
    """A web service that keeps what it got, and answers what it is told to, the last answer for ever."""

    daemon_threads = True

    def __init__(self):
        self.got = []
        self.answers = [(200, {})]
        super().__init__(("127.0.0.1", 0), Request)


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.headers, body))
        answers = self.server.answers
        status, fields = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        for name, value in {"Content-Length": "4", **fields}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"done")

    def log_message(self, *_):
        pass


@pytest.fixture
def service():
    server = Service()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def webhook(service, tmp_path):
    return f"""{QUICK}{LISTEN}
[domain."example.org"]
deliver = "webhook:json"
[domain."mime.example"]
deliver = "webhook:mime"
[domain."sender.example"]
deliver = "maildir:{tmp_path}/mail/{{user}}"
[webhook.json]
url = "http://127.0.0.1:{service.server_port}/in"
secret = "shared secret"
allow_private = true
headers = {{ Authorization = "Bearer token" }}
[webhook.mime]
url = "http://127.0.0.1:{service.server_port}/in"
secret = "another"
format = "mime"
allow_private = true
"""


def signed(fields, body, secret):
    """Whether the signature is right: HMAC-SHA256 over the time, a dot, and the body."""
    digest = hmac.new(secret, fields["X-Pillarbox-Timestamp"].encode() + b"." + body, hashlib.sha256)
    return hmac.compare_digest(fields["X-Pillarbox-Signature"], f"sha256={digest.hexdigest()}")


@pytest.mark.parametrize("times", [1, 30], ids=["small", "in a file of its own"])
async def test_a_web_service_gets_envelope_and_message_as_json_and_can_check_who_sent_it(
    serve, send, webhook, service, times
):
    server = await serve(webhook)
    message = AWKWARD * times
    sent = await send(
        server.port, "alice+tag@example.org", message=message, sender="a@sender.example BODY=8BITMIME"
    )
    await server.reached("delivered", sent.id)
    ((fields, body),) = service.got
    assert signed(fields, body, b"shared secret")
    assert not signed(fields, body, b"wrong")
    assert fields["Authorization"] == "Bearer token"
    assert fields["Idempotency-Key"] == f"{sent.id}-0"
    found = json.loads(body)
    assert found["queue_id"] == sent.id
    assert found["envelope"]["sender"] == "a@sender.example"
    assert found["envelope"]["recipient"] == "alice+tag@example.org"
    names = [name for name, _ in found["headers"]]
    assert names == ["Received", "From", "Subject", "X-Folded"]
    octets = base64.b64decode(found["message"])
    assert octets.endswith(message)
    assert found["octets"] == len(octets)


async def test_a_web_service_can_have_the_message_itself(serve, send, webhook, service):
    server = await serve(webhook)
    sent = await send(
        server.port, "alice@mime.example", message=AWKWARD, sender="a@sender.example BODY=8BITMIME"
    )
    await server.reached("delivered", sent.id)
    ((fields, body),) = service.got
    assert signed(fields, body, b"another")
    assert fields["Content-Type"] == "message/rfc822"
    assert body.startswith(
        b"Return-Path: <a@sender.example>\r\nDelivered-To: alice@mime.example\r\nReceived: "
    )
    assert body.endswith(AWKWARD)


async def test_a_web_service_in_trouble_is_asked_again(serve, send, webhook, service):
    service.answers = [(503, {}), (429, {"Retry-After": "0"}), (302, {"Location": "/"}), (408, {}), (202, {})]
    server = await serve(webhook)
    sent = await send(server.port, "alice@example.org")
    done = await server.reached("delivered", sent.id)
    assert done["attempts"] == 5
    assert len({fields["Idempotency-Key"] for fields, _ in service.got}) == 1
    assert [json.loads(body)["attempt"] for _, body in service.got] == [1, 2, 3, 4, 5]
    steps = server.command("trace", sent.id)["steps"]
    assert [step["kind"] for step in steps] == ["received", *["deferred"] * 4, "delivered"]
    assert steps[1]["reply"] == "451 4.3.0 The webhook failed: 503 done"


async def test_a_web_service_is_left_alone_for_as_long_as_it_asks(serve, send, webhook, service):
    service.answers = [(503, {"Retry-After": "3600"})]
    server = await serve(webhook.replace('max = "200ms"', 'max = "2h"'))
    sent = await send(server.port, "alice@example.org")
    event = await server.logged("delivery.deferred", message=sent.id)
    assert (datetime.fromisoformat(event["due"]) - datetime.fromisoformat(event["at"])).total_seconds() > 3500


async def test_a_web_service_that_refuses_a_message_has_it_returned(serve, send, mailbox, webhook, service):
    server = await serve(webhook)
    mailbox("a")
    for status in (400, 404, 410, 422):
        service.answers = [(status, {})]
        sent = await send(server.port, f"u{status}@example.org")
        failed = await server.reached("failed", sent.id)
        assert (failed["attempts"], failed["cause"]) == (1, "delivery.webhook_refused")
        assert failed["reply"] == f"550 5.3.0 The webhook refused it: {status} done"
    reports = await mailbox("a").filled(4)
    assert "Not delivered: u404@example.org" in {report["subject"] for report in reports}


# --- Python functions

HANDLER = """
import pillarbox

def handle(message):
    with open("FOLDER/taken", "ab") as file:
        file.write(message.read())
    name = message.recipient.partition("@")[0]
    if name == "refused":
        return pillarbox.refuse("envelope.refused_by_hook", "The desk is closed for ever")
    if name == "later" and not message.attempts:
        return pillarbox.refuse("envelope.no_space", "The desk is full")
    if name == "raising":
        raise RuntimeError("a bug in the handler")
    if name == "leaving":
        raise SystemExit(3)
    if name == "wrong":
        return "250 this is no reply"

async def handle_async(message):
    return handle(message)
"""


@pytest.fixture
def handlers(tmp_path, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "office_desk.py").write_text(HANDLER.replace("FOLDER", str(tmp_path)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    return f"""{QUICK}{LISTEN}
[domain."example.org"]
deliver = "python:office_desk:handle"
[domain."async.example"]
deliver = "python:office_desk:handle_async"
[domain."missing.example"]
deliver = "python:office_desk:nothing"
[domain."sender.example"]
deliver = "maildir:{tmp_path}/mail/{{user}}"
"""


async def test_a_function_takes_a_message_or_refuses_it_with_its_own_words(
    serve, send, mailbox, handlers, tmp_path
):
    server = await serve(handlers)
    mailbox("a")
    for domain in ("example.org", "async.example"):
        sent = await send(
            server.port, f"alice@{domain}", message=AWKWARD, sender="a@sender.example BODY=8BITMIME"
        )
        assert (await server.reached("delivered", sent.id))["attempts"] == 1
        assert (tmp_path / "taken").read_bytes().endswith(AWKWARD)
        later = await send(server.port, f"later@{domain}")
        assert (await server.reached("delivered", later.id))["attempts"] == 2
        steps = server.command("trace", later.id)["steps"]
        assert steps[1]["reply"] == "452 4.3.1 The desk is full"
        refused = await send(server.port, f"refused@{domain}")
        failed = await server.reached("failed", refused.id)
        assert failed["reply"] == "550 5.7.1 The desk is closed for ever"
        assert failed["cause"] == "envelope.refused_by_hook"
    reports = await mailbox("a").filled(2)
    assert {report["subject"] for report in reports} == {
        "Not delivered: refused@example.org",
        "Not delivered: refused@async.example",
    }


async def test_a_function_with_a_bug_keeps_the_message_in_the_queue(serve, send, handlers):
    server = await serve(handlers)
    for domain in ("example.org", "async.example"):
        for user in ("raising", "leaving", "wrong"):
            await keeps(server, await send(server.port, f"{user}@{domain}"))
    await keeps(server, await send(server.port, "alice@missing.example"))
    fine = await send(server.port, "alice@example.org")
    await server.reached("delivered", fine.id)


async def keeps(server, sent):
    waiting = await server.until(lambda: (one := server.recipient(sent.id))["attempts"] >= 2 and one)
    assert (waiting["state"], waiting["cause"]) == ("queued", "delivery.handler_failed")
    incident = waiting["reply"].split()[-1]
    (event,) = await server.until(lambda: server.events("incident", incident=incident))
    assert event["message"] == sent.id
