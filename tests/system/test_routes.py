"""Which way mail takes: aliases, catch-alls and tags, routes to other hosts, smarthosts, and loops between servers."""

from __future__ import annotations

import signal
import subprocess
import sys
from urllib.parse import quote

import pytest
import trustme

from pillarbox.policy.passwords import hash_password
from pillarbox.testing import ScriptedPeer

QUICK = """
[limits]
min_free = 0
[queue.retry]
first = "50ms"
max = "200ms"
"""
LISTEN = '[[listen]]\naddress = "127.0.0.1:0"\n'


def to(peer):
    """The addresses for which a host of another got mail, a list for each message in the order of RCPT."""
    addresses = []
    for command in peer.commands:
        if command.startswith("MAIL"):
            addresses.append([])
        elif command.startswith("RCPT"):
            addresses[-1].append(command.split("<")[1].split(">")[0])
    return addresses


# --- names that stand for others


@pytest.fixture
def office(tmp_path):
    return f"""{QUICK}{LISTEN}
[domain."example.org"]
deliver = "maildir:{tmp_path}/mail/{{user}}"
users = ["alice", "bob", "carol"]
[domain."example.org".aliases]
info = "alice"
team = ["alice", "bob"]
staff = ["team", "carol", "info", "alice"]
carol = ["carol", "bob"]
friend = "friend@far.example"
both = ["bob", "friend@far.example"]
[domain."all.example"]
catch_all = "bob@example.org"
aliases = {{ postmaster = "alice@example.org" }}
[domain."tags.example"]
deliver = "maildir:{tmp_path}/mail/{{domain}}/{{user}}/.{{tag}}"
users = ["dora"]
"""


@pytest.mark.parametrize(
    ("recipients", "delivered"),
    [
        (["Info@Example.ORG"], {"alice": ["alice@example.org"]}),
        (["team@example.org"], {"alice": ["alice@example.org"], "bob": ["bob@example.org"]}),
        (["carol@example.org"], {"carol": ["carol@example.org"], "bob": ["bob@example.org"]}),
        (
            ["staff@example.org", "alice@example.org"],
            {user: [f"{user}@example.org"] for user in ("alice", "bob", "carol")},
        ),
        (
            ["anything@all.example", "any+thing@all.example"],
            {"bob": ["bob@example.org"]},
        ),
        (["postmaster@all.example"], {"alice": ["alice@example.org"]}),
        (["alice+lists@example.org"], {"alice": ["alice+lists@example.org"]}),
        (["info+lists@example.org"], {"alice": ["alice+lists@example.org"]}),
        (["dora+news@tags.example"], {"tags.example/dora/.news": ["dora+news@tags.example"]}),
        (["dora@tags.example"], {"tags.example/dora": ["dora@tags.example"]}),
    ],
)
async def test_a_name_leads_to_all_it_stands_for_and_to_each_once(
    serve, send, mailbox, office, tmp_path, recipients, delivered
):
    server = await serve(office)
    sent = await send(server.port, *recipients)
    count = sum(map(len, delivered.values()))
    for number in range(count):
        await server.reached("delivered", sent.id, number)
    found = {name: sorted(m["delivered-to"] for m in mailbox(name).messages) for name in delivered}
    assert found == delivered
    assert len([file for file in (tmp_path / "mail").rglob("new/*") if file.is_file()]) == count


async def test_names_that_exist_nowhere_are_refused_while_the_client_waits(serve, send, office):
    server = await serve(office)
    sent = await send(server.port, "ghost@example.org", "infos@example.org", "x@tags.example")
    assert {answer[:9] for answer in sent.recipients} == {b"550 5.1.1"}
    assert sent.replies[0].startswith(b"554 5.5.1 ")
    assert server.queue() == []


async def test_an_alias_leads_to_another_host(serve, send, mailbox, office):
    async with ScriptedPeer() as peer:
        server = await serve(
            f'{office}[[route]]\nmatch = "far.example"\nvia = "smtp://127.0.0.1:{peer.port}?tls=none"\n'
        )
        sent = await send(server.port, "friend@example.org", "both@example.org")
        await server.reached("delivered", sent.id, 0)
        await server.reached("delivered", sent.id, 1)
        assert to(peer) == [["friend@far.example"]]
        assert peer.commands[1].startswith("MAIL FROM:<a@sender.example>")
        (found,) = mailbox("bob").messages
        assert found["delivered-to"] == "bob@example.org"
        message = server.command("queue", "show", sent.id)
        assert {one["address"]: one["original"] for one in message["recipients"]} == {
            "friend@far.example": "friend@example.org",
            "bob@example.org": "both@example.org",
        }


@pytest.mark.parametrize(
    "aliases",
    [
        'one = "two"\ntwo = "three"\nthree = ["alice", "one"]',
        'one = "one@all.example"',
        'one = "two@example.org"\ntwo = "one@example.org"',
    ],
)
def test_aliases_that_lead_in_a_circle_are_refused_before_the_server_starts(tmp_path, aliases):
    config = tmp_path / "circle.toml"
    config.write_text(
        f'hostname = "mx.example.org"\ndata = "{tmp_path}/data"\n'
        f'[domain."example.org"]\ndeliver = "hold"\nusers = ["alice"]\n[domain."example.org".aliases]\n{aliases}\n'
        '[domain."all.example"]\ncatch_all = "one@example.org"\naliases = { postmaster = "one@example.org" }\n'
    )
    ran = subprocess.run(
        [sys.executable, "-m", "pillarbox", "serve", "--config", config],
        capture_output=True,
        timeout=30,
        check=False,
        text=True,
    )
    assert ran.returncode == 78
    assert "aliases form a loop: " in ran.stderr
    assert not (tmp_path / "data").exists()


# --- other hosts


async def test_each_domain_takes_its_own_route(serve, send):
    async with ScriptedPeer() as special, ScriptedPeer() as below, ScriptedPeer() as rest:
        server = await serve(f"""{QUICK}{LISTEN}
[[route]]
match = "special.example"
via = "smtp://127.0.0.1:{special.port}"
[[route]]
match = "*.special.example"
via = "smtp://127.0.0.1:{below.port}"
[[route]]
match = "nowhere.example"
via = "discard"
[[route]]
match = "*"
via = "smtp://127.0.0.1:{rest.port}"
""")
        sent = await send(
            server.port,
            "one@special.example",
            "two@Deep.Below.special.example",
            "three@notspecial.example",
            "four@nowhere.example",
            "five@special.example",
            "six@third.example",
        )
        for number in range(6):
            await server.reached("delivered", sent.id, number)
        assert to(special) == [["one@special.example", "five@special.example"]]
        assert to(below) == [["two@deep.below.special.example"]]
        assert to(rest) == [["three@notspecial.example", "six@third.example"]]
        assert server.recipient(sent.id, 3)["reply"].endswith("Thrown away, as configured")
        (copy,) = special.messages
        assert copy.startswith(
            b"Received: from client.example ([127.0.0.1])\r\n\tby mx.example.org (Pillarbox)"
        )
        assert b"\r\n\tfor <" not in copy


async def test_a_client_from_outside_cannot_use_the_routes(serve, send):
    server = await serve(f"""{QUICK}{LISTEN}
[policy]
relay_networks = []
[[route]]
match = "*"
via = "discard"
""")
    sent = await send(server.port, "x@far.example")
    assert sent.recipients[0].startswith(b"550 5.7.1 ")


class Smarthost:
    """A second server that takes mail of an account over TLS, and one in front that sends everything through it."""

    def __init__(self, folder):
        self.folder = folder
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(str(folder / "key.pem"))
        issued.cert_chain_pems[0].write_to_path(str(folder / "chain.pem"))
        trustme.CA().cert_pem.write_to_path(str(folder / "other-ca.pem"))

    def behind(self, tls="starttls", account="office"):
        return f"""{QUICK}
[[listen]]
address = "127.0.0.1:0"
role = "submission"
tls = "{tls}"
[tls]
certificate = "{self.folder}/chain.pem"
key = "{self.folder}/key.pem"
[account."{account}"]
password = "{hash_password("open sesame")}"
[domain."far.example"]
deliver = "maildir:{self.folder}/mail/{{user}}"
"""

    def front(self, port, password="open sesame", ca="ca.pem", tls="required", account="office"):
        return f"""{QUICK}{LISTEN}
[[route]]
match = "*"
via = "smtp://{quote(account)}@127.0.0.1:{port}?tls={tls}"
[relay]
ca_file = "{self.folder}/{ca}"
[relay.passwords]
"{account}@127.0.0.1" = "{password}"
"""


@pytest.fixture
def smarthost(tmp_path):
    return Smarthost(tmp_path)


@pytest.mark.parametrize(
    ("listens", "tls", "account"),
    [("starttls", "required", "office"), ("implicit", "implicit", "office@far.example")],
)
async def test_everything_goes_through_a_smarthost_with_login_and_tls(
    serve, send, mailbox, smarthost, tmp_path, listens, tls, account
):
    text = smarthost.behind(listens, account)
    behind = await serve(text, folder=tmp_path / "behind", hostname="smart.example")
    front = await serve(smarthost.front(behind.port, tls=tls, account=account))
    sent = await send(front.port, "x@far.example")
    (found,) = await mailbox("x").filled()
    last, first = found.get_all("received")
    assert " by smart.example (Pillarbox) with ESMTPSA id " in " ".join(last.split())
    assert "\ttls TLS_" in last
    assert " by mx.example.org (Pillarbox) with ESMTP id " in " ".join(first.split())
    there = (await front.reached("delivered", sent.id))["reply"].split()[-1]
    assert behind.command("queue", "show", there)["login"] == account
    assert behind.events("login.ok")[0]["mechanism"] == "PLAIN"


async def test_a_wrong_password_keeps_the_mail_and_alarms_the_operator(serve, send, smarthost, tmp_path):
    behind = await serve(smarthost.behind(), folder=tmp_path / "behind", hostname="smart.example")
    front = await serve(smarthost.front(behind.port, password="open barley"))
    sent = await send(front.port, "x@far.example")
    event = await front.logged("delivery.deferred", message=sent.id)
    assert (event["stage"], event["reply"][:9]) == ("auth", "535 5.7.8")
    assert "535 5.7.8" in (await front.logged("alarm"))["problem"]
    tried = len(behind.events("login.failed"))
    later = await send(front.port, "y@far.example")
    event = await front.logged("delivery.deferred", message=later.id)
    assert event["cause"] == "delivery.left_alone"
    assert "it last said: 535 5.7.8" in event["reply"]
    assert len(behind.events("login.failed")) == tried, "the smarthost must be left alone for a while"
    assert "open barley" not in front.log_text
    assert behind.events("message.received") == []


async def test_nothing_is_sent_to_a_smarthost_whose_certificate_is_not_trusted(
    serve, send, smarthost, tmp_path
):
    behind = await serve(smarthost.behind(), folder=tmp_path / "behind", hostname="smart.example")
    front = await serve(smarthost.front(behind.port, ca="other-ca.pem"))
    sent = await send(front.port, "x@far.example")
    waiting = await front.until(lambda: (one := front.recipient(sent.id))["reply"] and one)
    assert (waiting["state"], waiting["cause"]) == ("queued", "delivery.tls_failed")
    assert "certificate" in waiting["reply"]
    assert behind.events("login.ok") == behind.events("message.received") == []


async def test_no_password_goes_over_a_connection_without_tls(serve, send):
    async with ScriptedPeer(extensions=("PIPELINING", "AUTH PLAIN LOGIN")) as peer:
        server = await serve(f"""{QUICK}{LISTEN}
[[route]]
match = "*"
via = "smtp://office@127.0.0.1:{peer.port}?tls=opportunistic"
[relay.passwords]
"office@127.0.0.1" = "open sesame"
""")
        sent = await send(server.port, "x@far.example")
        waiting = await server.until(lambda: (one := server.recipient(sent.id))["attempts"] and one)
        assert (waiting["state"], waiting["cause"]) == ("queued", "delivery.login_not_possible")
        assert not any(command.startswith(("AUTH", "MAIL")) for command in peer.commands)


async def test_mail_that_waits_takes_the_new_way_after_a_reload(serve, send, free_port):
    async with ScriptedPeer() as peer:
        way = '[[route]]\nmatch = "*"\nvia = "{}"\n'
        server = await serve(QUICK + LISTEN + way.format(f"smtp://127.0.0.1:{free_port()}"))
        sent = await send(server.port, "x@far.example")
        await server.until(lambda: server.recipient(sent.id)["attempts"])
        server.configure(QUICK + LISTEN + way.format(f"smtp://127.0.0.1:{peer.port}"))
        server.signal(signal.SIGHUP)
        done = await server.reached("delivered", sent.id)
        assert done["destination"] == f"smtp://127.0.0.1:{peer.port}"
        assert to(peer) == [["x@far.example"]]


async def test_mail_of_an_open_session_takes_the_new_way_after_a_reload(serve, dial, free_port):
    way = '[[route]]\nmatch = "*"\nvia = "{}"\n'
    async with ScriptedPeer() as peer:
        server = await serve(QUICK + LISTEN + way.format(f"smtp://127.0.0.1:{free_port()}"))
        caller = await dial(server.port)
        await caller.reply()
        await caller.ask(b"EHLO client.example")
        server.configure(QUICK + LISTEN + way.format(f"smtp://127.0.0.1:{peer.port}"))
        server.signal(signal.SIGHUP)
        await server.until(lambda: server.events("config.reloaded"))
        for command in (b"MAIL FROM:<a@b.example>", b"RCPT TO:<x@far.example>", b"DATA", b"."):
            answer = await caller.ask(command)
        done = await server.reached("delivered", answer.decode().split()[-1])
        assert (done["destination"], done["attempts"]) == (f"smtp://127.0.0.1:{peer.port}", 1)


# --- loops

HOPS = 8


async def two_that_send_to_each_other(serve, free_port, tmp_path, extra=("", "")):
    ports = [free_port(), free_port()]
    servers = []
    for number, folder in enumerate((tmp_path, tmp_path / "other")):
        servers.append(
            await serve(
                f"""
[limits]
min_free = 0
hops = {HOPS}
[[listen]]
address = "127.0.0.1:{ports[number]}"
[[route]]
match = "*"
via = "smtp://127.0.0.1:{ports[1 - number]}"
{extra[number]}""",
                folder=folder,
                hostname=f"mx{number}.example",
            )
        )
    return servers


async def test_a_loop_between_two_servers_ends_with_a_report(serve, send, mailbox, free_port, tmp_path):
    home = f'[domain."sender.example"]\ndeliver = "maildir:{tmp_path}/mail/{{user}}"\n'
    servers = await two_that_send_to_each_other(serve, free_port, tmp_path, (home, ""))
    await send(servers[0].port, "x@loop.example")
    (report,) = await mailbox("a").filled()
    assert report["subject"] == "Not delivered: x@loop.example"
    text = report.get_body().get_content()
    assert "554 5.4.6" in text
    assert "loop" in text
    received = [event for server in servers for event in server.events("message.received")]
    assert HOPS <= len(received) <= HOPS + 3
    await servers[0].until(lambda: servers[0].queue() == servers[1].queue() == [])


async def test_a_loop_ends_although_its_report_loops_too(serve, send, free_port, tmp_path):
    servers = await two_that_send_to_each_other(serve, free_port, tmp_path)
    await send(servers[0].port, "x@loop.example")

    def failures():
        return [event for server in servers for event in server.events("delivery.failed")]

    await servers[0].until(lambda: len(failures()) >= 2)  # of the message, and of the report about it
    await servers[0].until(lambda: servers[0].queue() == servers[1].queue() == [])
    received = [event for server in servers for event in server.events("message.received")]
    reports = [event for server in servers for event in server.events("report.queued")]
    assert len(reports) == 1
    assert len(received) <= 2 * (HOPS + 2)


async def test_forwarding_in_a_circle_between_two_servers_ends_with_a_report(
    serve, send, mailbox, free_port, tmp_path
):
    home = f'[domain."sender.example"]\ndeliver = "maildir:{tmp_path}/mail/{{user}}"\n'
    forward = '[domain."{}.example"]\ndeliver = "hold"\nusers = []\naliases = {{ x = "x@{}.example" }}\n'
    extra = (forward.format("one", "two") + home, forward.format("two", "one"))
    servers = await two_that_send_to_each_other(serve, free_port, tmp_path, extra)
    await send(servers[0].port, "x@one.example")
    (report,) = await mailbox("a").filled()
    assert "554 5.4.6" in report.get_body().get_content()
    await servers[0].until(lambda: servers[0].queue() == servers[1].queue() == [])
