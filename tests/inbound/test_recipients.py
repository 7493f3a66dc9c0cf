"""Recipients that have to be looked up elsewhere: in files, in DNS, at the next hop, in the memory of what came before."""

import asyncio

import pytest

from pillarbox.mail.units import Rate
from pillarbox.net.resolver import Resolver, ResolverSettings
from pillarbox.policy.checks import CheckSettings
from pillarbox.policy.domains import DomainSettings
from pillarbox.policy.exchangers import RecipientSettings
from pillarbox.policy.rules import Role
from pillarbox.policy.users import UserSettings
from pillarbox.relay.couriers import Couriers
from pillarbox.relay.session import SmtpSettings
from pillarbox.testing import Drop, Hang, ScriptedPeer

MAIL = b"MAIL FROM:<a@sender.example>"


async def ask(caller, *recipients):
    """The beginnings of the replies to RCPT: code and status."""
    return [b" ".join((await caller.ask(b"RCPT TO:<%s>" % one)).split()[:2]) for one in recipients]


def replace(file, text):
    """Write a file in the way an operator's tools do: beside it, then in its place."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


# --- files


@pytest.fixture
async def filed(open_office, begin, tmp_path):
    """A session with an office whose users and aliases stand in files, and these."""
    users, aliases = tmp_path / "users", tmp_path / "aliases"
    users.write_text("# users\nann\n\nBob\n")
    aliases.write_text("sales: ann, jo@new.example\nround: circle\ncircle: round\n")
    domain = DomainSettings(
        deliver="hold",
        users=["carol"],
        aliases={"desk": "ann"},
        users_file=str(users),
        aliases_file=str(aliases),
    )
    office = await open_office(domains={"example.org": domain})
    caller, _ = await begin(office, MAIL)
    return office, caller, users, aliases


async def test_users_and_aliases_in_files_are_followed_as_they_change(filed):
    office, caller, users, aliases = filed
    names = (b"ann@example.org", b"BOB+tag@example.org", b"sales@example.org", b"eve@example.org")
    assert await ask(caller, *names) == [b"250 2.1.5", b"250 2.1.5", b"250 2.1.5", b"550 5.1.1"]
    await caller.ask(b"DATA")
    await caller.ask(b"Subject: x\r\n\r\nx\r\n.")
    (queued,) = office.queued
    assert sorted(one.address for one in queued.envelope.recipients) == [
        "BOB+tag@example.org",
        "ann@example.org",
        "jo@new.example",
    ]
    replace(users, "eve\n")
    replace(aliases, "help: eve\n")
    await caller.ask(MAIL)
    assert await ask(caller, b"help@example.org", b"bob@example.org") == [b"250 2.1.5", b"550 5.1.1"]


async def test_E451_2_the_list_of_mailboxes_cannot_be_read(filed):
    _, caller, users, _ = filed
    users.unlink()
    unknown = (b"ann@example.org", b"eve@example.org", b"desk@example.org")
    assert await ask(caller, *unknown) == [b"451 4.4.3"] * 3
    # what stands in the configuration is known, and so is postmaster
    known = (b"carol@example.org", b"postmaster@example.org")
    assert await ask(caller, *known) == [b"250 2.1.5"] * 2
    users.write_text("no names here\n")
    assert await ask(caller, b"eve@example.org") == [b"451 4.4.3"]
    replace(users, "ann\n")
    assert await ask(caller, b"ann@example.org", b"eve@example.org") == [b"250 2.1.5", b"550 5.1.1"]


@pytest.mark.parametrize(
    "text", ["sales\n", "sales:\n", "sales: a b\n", "two words: ann\n", "a: b@@c\n", None]
)
async def test_E451_5_the_file_of_aliases_is_broken(filed, text):
    _, caller, _, aliases = filed
    if text is None:
        aliases.unlink()
    else:
        replace(aliases, text)
    assert await ask(caller, b"ann@example.org", b"carol@example.org") == [b"451 4.3.5", b"250 2.1.5"]
    replace(aliases, "")
    assert await ask(caller, b"ann@example.org", b"sales@example.org") == [b"250 2.1.5", b"550 5.1.1"]


async def test_E451_5_a_circle_in_the_file_of_aliases(filed):
    _, caller, _, _ = filed
    assert await ask(caller, b"round@example.org") == [b"451 4.3.5"]


# --- DNS


@pytest.fixture
async def relaying(open_office, begin, serve_dns):
    """A session with an office that asks DNS about the domains to which it relays."""
    server = await serve_dns(
        {
            "closed.test. MX": [("closed.test.", 300, "IN", "MX", "0 .")],
            "open.test. MX": [("open.test.", 300, "IN", "MX", "10 mx.open.test.")],
            "broken.test. *": "servfail",
        }
    )
    office = await open_office(
        role=Role.RELAY,
        relay=("127.0.0.0/8",),
        checks=CheckSettings(recipient=RecipientSettings(check_domains=True)),
        nameserver=server.address,
    )
    caller, _ = await begin(office, MAIL)
    return caller


async def test_E556_1_a_domain_that_publishes_that_it_takes_no_mail(relaying):
    assert await ask(relaying, b"x@closed.test", b"x@open.test") == [b"556 5.1.10", b"250 2.1.5"]


async def test_E451_2_a_resolver_that_is_down(relaying):
    assert await ask(relaying, b"x@broken.test") == [b"451 4.4.3"]


# --- the next hop


@pytest.fixture
async def passing(open_office, begin):
    """A session with an office that asks a host about the mailboxes of a domain."""

    async def make(peer):
        couriers = Couriers(
            SmtpSettings(), Resolver(ResolverSettings()), hostname="mx.example.org", local=None
        )
        domain = DomainSettings(deliver=f"smtp://127.0.0.1:{peer.port}", verify_recipients=True)
        office = await open_office(domains={"example.org": domain}, probe=couriers.probe)
        return (await begin(office, MAIL))[0]

    return make


async def test_unknown_at_the_next_hop_is_unknown_here_and_remembered(passing):
    async with ScriptedPeer({"RCPT": ["250 2.1.5 ok", "550 5.1.1 No such user"]}) as peer:
        caller = await passing(peer)
        names = (b"ann@example.org", b"eve@example.org")
        assert await ask(caller, *names, *names) == [b"250 2.1.5", b"550 5.1.1"] * 2
        asked = [command.split()[1] for command in peer.commands if command.startswith("RCPT")]
        assert asked == ["TO:<ann@example.org>", "TO:<eve@example.org>"]
        assert "MAIL FROM:<>" in " ".join(peer.commands)
        assert not peer.messages


@pytest.mark.parametrize(
    "script",
    [
        {"RCPT": "451 4.3.0 later"},
        {"MAIL": "550 5.7.1 no reports"},
        {"connect": Drop()},
        {"RCPT": Drop()},
        {"connect": "554 no"},
    ],
)
async def test_E450_5_the_next_hop_does_not_say(passing, script):
    async with ScriptedPeer(script) as peer:
        caller = await passing(peer)
        assert await ask(caller, b"ann@example.org") == [b"450 4.4.1"]


async def test_E450_5_the_next_hop_says_nothing_in_time(passing, monkeypatch):
    monkeypatch.setattr("pillarbox.policy.next_hop._LIMIT_S", 0.2)
    async with ScriptedPeer({"RCPT": Hang()}) as peer:
        caller = await passing(peer)
        assert await ask(caller, b"ann@example.org") == [b"450 4.4.1"]


async def test_E450_5_nobody_is_there(passing, free):
    class Nobody:
        port = free

    caller = await passing(Nobody)
    assert await ask(caller, b"ann@example.org") == [b"450 4.4.1"]


@pytest.fixture
async def free():
    """A port where nobody listens."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    return port


# --- how much a mailbox gets


async def test_E450_4_a_mailbox_that_gets_too_much(open_office, begin):
    domain = DomainSettings(
        deliver="hold",
        users=["ann", "bob"],
        user={"eve": UserSettings(rate=Rate(1, 3600.0))},
        rate=Rate(2, 3600.0),
    )
    office = await open_office(domains={"example.org": domain})
    caller, _ = await begin(office, MAIL)
    ann = (b"ann@example.org", b"Ann+tag@example.org", b"ann@example.org")
    assert await ask(caller, *ann) == [b"250 2.1.5", b"250 2.1.5", b"450 4.2.1"]
    assert await ask(caller, b"bob@example.org") == [b"250 2.1.5"]
    assert await ask(caller, b"eve@example.org", b"eve@example.org") == [b"250 2.1.5", b"450 4.2.1"]


# --- no backscatter


@pytest.mark.parametrize(
    "kind", ["users", "users_file", "aliases", "aliases_file", "user", "verify_recipients"]
)
async def test_E550_1_unknown_recipients_are_refused_at_the_door(open_office, begin, tmp_path, kind):
    """Whatever tells the mailboxes of a domain, mail for others is never taken, so that no report about it is owed."""
    file = tmp_path / "names"
    file.write_text("ann: bob@new.example\n" if kind == "aliases_file" else "ann\n")
    async with ScriptedPeer({"RCPT": ["250 2.1.5 ok", "550 5.1.1 unknown"]}) as peer:
        hop = f"smtp://127.0.0.1:{peer.port}"
        domain = {
            "users": {"users": ["ann"]},
            "users_file": {"users_file": str(file)},
            "aliases": {"deliver": "", "aliases": {"ann": "bob@new.example", "postmaster": "ann"}},
            "aliases_file": {"users": [], "aliases_file": str(file)},
            "user": {"users": [], "user": {"ann": UserSettings()}},
            "verify_recipients": {"deliver": hop, "verify_recipients": True},
        }[kind]
        couriers = Couriers(
            SmtpSettings(), Resolver(ResolverSettings()), hostname="mx.example.org", local=None
        )
        office = await open_office(
            domains={"example.org": DomainSettings(**{"deliver": "hold", **domain})}, probe=couriers.probe
        )
        caller, _ = await begin(office, MAIL)
        assert await ask(caller, b"ann@example.org", b"eve@example.org") == [b"250 2.1.5", b"550 5.1.1"]
        await caller.ask(b"DATA")
        await caller.ask(b"Subject: x\r\n\r\nx\r\n.")
        assert all("eve" not in one.address for one in office.queued[0].envelope.recipients)
