"""Checks of hosts that nobody vouches for: their names, their addresses' names, their senders; each told over a socket."""

import pytest

from pillarbox import observe
from pillarbox.mailauth.dns import Answer, Query
from pillarbox.policy.checks import CheckSettings
from pillarbox.policy.dns_lists import DnsListSettings, ZoneSettings
from pillarbox.policy.hello import HelloSettings
from pillarbox.policy.hooks import Action
from pillarbox.policy.reverse import ReverseSettings, has_name
from pillarbox.policy.senders import SenderSettings
from pillarbox.queue.ledger import Ledger

EHLO, MAIL, RCPT = b"EHLO client.test", b"MAIL FROM:<a@sender.test>", b"RCPT TO:<alice@example.org>"
POINTER = "1.0.0.127.in-addr.arpa."


def records(name, kind, *texts):
    return [(name, 300, "IN", kind, *texts)]


@pytest.mark.parametrize("verb", [b"EHLO", b"HELO"])
async def test_E504_3_a_bare_name_in_the_greeting(open_office, converse, verb):
    office = await open_office(checks=CheckSettings(helo=HelloSettings(require_fqdn=Action.REJECT)))
    bare, after, literal, full = await converse(
        office, verb + b" printer", MAIL, verb + b" [192.0.2.1]", verb + b" mx.sender.test"
    )
    assert bare == b"504 A full host name or an address literal is wanted here\r\n"
    assert after[:3] == b"503"
    assert literal[:3] == full[:3] == b"250"


async def test_E550_12_a_name_in_the_greeting_that_the_operator_refuses(open_office, converse):
    settings = HelloSettings(deny=("mx.example.org", "*.dynamic.test"))
    office = await open_office(checks=CheckSettings(helo=settings))
    replies = await converse(
        office, b"EHLO MX.example.org", b"EHLO a.b.dynamic.test", b"EHLO dynamic.test", b"EHLO x.example.org"
    )
    assert replies[0] == b"550 The name MX.example.org is not welcome here\r\n"
    assert [reply[:3] for reply in replies] == [b"550", b"550", b"250", b"250"]


async def test_E550_7_a_sender_that_the_operator_refuses(open_office, converse):
    settings = SenderSettings(deny=("evil@sender.test", "bad.test", "*.worse.test"))
    office = await open_office(checks=CheckSettings(sender=settings))
    for sender, good in [
        (b"evil@sender.test", False),
        (b"EVIL@Sender.test", False),
        (b"good@sender.test", True),
        (b"any@bad.test", False),
        (b"any@sub.bad.test", True),
        (b"any@sub.worse.test", False),
        (b"", True),
    ]:
        _, reply = await converse(office, EHLO, b"MAIL FROM:<%s>" % sender)
        assert reply == (
            b"250 2.1.0 Sender OK\r\n" if good else b"550 5.7.1 Mail from this sender is not accepted\r\n"
        )


ZONE = {
    "nowhere.test. *": "nxdomain",
    "silent.test. *": "servfail",
    "null.test. MX": records("null.test.", "MX", "0 ."),
    "bare.test. *": "nothing",
    "mx.test. MX": records("mx.test.", "MX", "10 mail.mx.test."),
    "host.test. MX": "nothing",
    "host.test. A": records("host.test.", "A", "192.0.2.1"),
    "six.test. *": "nothing",
    "six.test. AAAA": records("six.test.", "AAAA", "2001:db8::1"),
    "half.test. MX": "nothing",
    "half.test. A": "servfail",
}


@pytest.fixture
async def office_of_careful_people(open_office, serve_dns):
    server = await serve_dns(ZONE)
    return await open_office(
        checks=CheckSettings(sender=SenderSettings(domain=Action.REJECT)), nameserver=server.address
    )


async def say_sender(converse, office, sender):
    _, reply = await converse(office, EHLO, b"MAIL FROM:<%s>" % sender)
    return reply


@pytest.mark.parametrize("domain", [b"silent.test", b"half.test"])
async def test_E450_6_a_sender_domain_about_which_dns_gives_no_answer(
    office_of_careful_people, converse, domain
):
    reply = await say_sender(converse, office_of_careful_people, b"a@" + domain)
    assert reply.startswith(b"450 4.1.8 Cannot look up the sender's domain " + domain)


async def test_E550_9_a_sender_domain_with_a_null_mx(office_of_careful_people, converse):
    reply = await say_sender(converse, office_of_careful_people, b"a@null.test")
    assert reply == b"550 5.7.27 The sender's domain null.test says that it takes no mail\r\n"


@pytest.mark.parametrize("domain", [b"nowhere.test", b"bare.test"])
async def test_E550_10_a_sender_domain_that_is_not_there(office_of_careful_people, converse, domain):
    reply = await say_sender(converse, office_of_careful_people, b"a@" + domain)
    assert reply == b"550 5.1.8 The sender's domain %s does not exist or takes no mail\r\n" % domain


@pytest.mark.parametrize("domain", [b"localhost", b"printer", b"made.up.invalid"])
async def test_E553_2_a_sender_domain_that_nobody_can_own(office_of_careful_people, converse, domain):
    reply = await say_sender(converse, office_of_careful_people, b"a@" + domain)
    assert reply == b"553 5.1.7 The sender's domain %s is no domain of the Internet\r\n" % domain


@pytest.mark.parametrize("sender", [b"a@mx.test", b"a@host.test", b"a@six.test", b"a@[192.0.2.1]", b""])
async def test_senders_who_can_take_reports_are_welcome(office_of_careful_people, converse, sender):
    assert await say_sender(converse, office_of_careful_people, sender) == b"250 2.1.0 Sender OK\r\n"


async def test_whoever_may_relay_is_not_checked(open_office, converse):
    office = await open_office(
        relay=("127.0.0.0/8",),
        checks=CheckSettings(
            sender=SenderSettings(domain=Action.REJECT, deny=("sender.test",)),
            helo=HelloSettings(require_fqdn=Action.REJECT, deny=("printer",)),
            reverse_dns=ReverseSettings(action=Action.REJECT),
        ),
    )
    replies = await converse(office, b"EHLO printer", b"MAIL FROM:<a@localhost>", RCPT)
    assert [reply[:3] for reply in replies] == [b"250", b"250", b"250"]


@pytest.mark.parametrize(
    ("zone", "confirm", "said"),
    [
        ({f"{POINTER} PTR": "nxdomain"}, True, b"550 5.7.25 The address 127.0.0.1 has no proper name in DNS: there is none\r\n"),
        ({f"{POINTER} PTR": "nothing"}, False, b"550 5.7.25 The address 127.0.0.1 has no proper name in DNS: there is none\r\n"),
        (
            {f"{POINTER} PTR": records(POINTER, "PTR", "liar.test."), "liar.test. A": records("liar.test.", "A", "192.0.2.9")},
            True,
            b"550 5.7.25 The address 127.0.0.1 has no proper name in DNS: liar.test does not lead back to it\r\n",
        ),
        ({f"{POINTER} PTR": records(POINTER, "PTR", "liar.test.")}, False, b"250 2.1.5 Recipient OK\r\n"),
        (
            {
                f"{POINTER} PTR": records(POINTER, "PTR", "gone.test.", "honest.test."),
                "honest.test. A": records("honest.test.", "A", "192.0.2.1", "127.0.0.1"),
            },
            True,
            b"250 2.1.5 Recipient OK\r\n",
        ),
    ],
)  # fmt: skip
async def test_E550_11_an_address_without_a_name_of_its_own(
    open_office, serve_dns, converse, zone, confirm, said
):
    server = await serve_dns(zone)
    settings = ReverseSettings(action=Action.REJECT, confirm=confirm)
    office = await open_office(checks=CheckSettings(reverse_dns=settings), nameserver=server.address)
    *_, reply = await converse(office, EHLO, MAIL, RCPT)
    assert reply == said


@pytest.mark.parametrize(
    "zone",
    [
        {f"{POINTER} PTR": "servfail"},
        {f"{POINTER} PTR": "silent"},
        {f"{POINTER} PTR": records(POINTER, "PTR", "slow.test."), "slow.test. A": "servfail"},
    ],
)
async def test_E450_8_an_address_whose_name_cannot_be_looked_up(open_office, serve_dns, converse, zone):
    server = await serve_dns(zone)
    settings = ReverseSettings(action=Action.REJECT)
    office = await open_office(checks=CheckSettings(reverse_dns=settings), nameserver=server.address)
    *_, reply = await converse(office, EHLO, MAIL, RCPT)
    assert reply.startswith(b"450 4.7.25 Cannot look up the name of 127.0.0.1 now: ")


async def test_the_client_is_refused_before_anything_is_said_about_the_recipient(
    open_office, serve_dns, converse
):
    server = await serve_dns({})
    settings = ReverseSettings(action=Action.REJECT)
    office = await open_office(checks=CheckSettings(reverse_dns=settings), nameserver=server.address)
    *_, reply = await converse(office, EHLO, MAIL, b"RCPT TO:<nobody@example.org>")
    assert reply.startswith(b"550 5.7.25")


async def test_a_check_on_trial_lets_mail_through_and_says_what_it_would_have_done(
    open_office, serve_dns, dial, noted
):
    server = await serve_dns({})
    office = await open_office(
        checks=CheckSettings(
            helo=HelloSettings(require_fqdn=Action.WARN),
            sender=SenderSettings(domain=Action.WARN),
            reverse_dns=ReverseSettings(action=Action.WARN),
        ),
        nameserver=server.address,
    )
    caller = await dial(office.port)
    await caller.reply()
    for line in (b"EHLO printer", MAIL, RCPT, b"DATA"):
        await caller.ask(line)
    assert (await caller.ask(b"Subject: x\r\n\r\nx\r\n."))[:3] == b"250"
    warned = [facts for name, facts in noted if name == "check.warned"]
    assert [(facts["stage"], facts["cause"]) for facts in warned] == [
        ("hello", "policy.hello_not_qualified"),
        ("mail", "policy.sender_domain_missing"),
        ("client", "policy.reverse_name_missing"),
    ]
    assert (warned[2]["sender"], warned[2]["recipient"]) == ("a@sender.test", "alice@example.org")
    for line in (MAIL, RCPT, b"DATA"):
        await caller.ask(line)
    await caller.ask(b"Subject: x\r\n\r\nx\r\n.")
    first, second = [await trial_of(office, number) for number in (0, 1)]
    assert [line[:3] for line in first] == ["504", "550", "550"]
    assert second == first, "what was found of the client counts for all its messages, the rest for one"


async def test_the_trace_tells_what_dns_answered_to_each_check(open_office, serve_dns, dial):
    zone = {
        f"{POINTER} PTR": records(POINTER, "PTR", "mail.sender.test."),
        "mail.sender.test. A": records("mail.sender.test.", "A", "127.0.0.1"),
        "sender.test. MX": records("sender.test.", "MX", "10 mail.sender.test."),
        "other.test. MX": records("other.test.", "MX", "5 mail.other.test."),
        "1.0.0.127.bl.test. A": records("1.0.0.127.bl.test.", "A", "127.0.0.2"),
        "1.0.0.127.wl.test. A": "nxdomain",
    }
    server = await serve_dns(zone)
    zones = (ZoneSettings(zone="bl.test", weight=0.5), ZoneSettings(zone="wl.test", weight=-1))
    office = await open_office(
        checks=CheckSettings(
            dns_lists=DnsListSettings(zones=zones),
            sender=SenderSettings(domain=Action.REJECT),
            reverse_dns=ReverseSettings(action=Action.REJECT),
        ),
        nameserver=server.address,
    )
    caller = await dial(office.port)
    await caller.reply()
    for sender in (b"sender.test", b"other.test"):
        for line in (EHLO, b"MAIL FROM:<a@%s>" % sender, RCPT, b"DATA"):
            await caller.ask(line)
        assert (await caller.ask(b"Subject: x\r\n\r\nx\r\n."))[:3] == b"250"
    of_client = ["A 1.0.0.127.bl.test: 127.0.0.2", "A 1.0.0.127.wl.test: no such domain"]
    of_address = ["PTR 1.0.0.127.in-addr.arpa: mail.sender.test", "A mail.sender.test: 127.0.0.1"]
    assert await evidence_of(office, 0) == [
        *of_client,
        "MX sender.test: 10 mail.sender.test",
        *of_address,
    ]
    assert await evidence_of(office, 1) == [*of_client, "MX other.test: 5 mail.other.test", *of_address]
    assert await trial_of(office, 0) == [""], "an answer is no warning"


async def evidence_of(office, number):
    with Ledger(office.folder) as ledger:
        return ledger.show(office.queued[number].id).trace.origin.split("\n")


async def test_a_refusal_by_dns_is_logged_with_what_it_rests_on(
    office_of_careful_people, converse, noted, monkeypatch
):
    monkeypatch.setattr(observe.CHECK_PROVEN, "written", True)
    await say_sender(converse, office_of_careful_people, b"a@null.test")
    (proven,) = [facts for name, facts in noted if name == "check.proven"]
    assert (proven["cause"], proven["answers"]) == ("policy.sender_takes_no_mail", "MX null.test: 0 .")


async def trial_of(office, number):
    with Ledger(office.folder) as ledger:
        return ledger.show(office.queued[number].id).trace.warned.split("; ")


async def test_E450_20_a_check_may_put_off_what_it_would_refuse(open_office, serve_dns, converse):
    server = await serve_dns({})
    office = await open_office(
        checks=CheckSettings(sender=SenderSettings(domain=Action.DEFER)), nameserver=server.address
    )
    reply = await say_sender(converse, office, b"a@nowhere.test")
    assert reply == b"450 4.7.1 The sender's domain nowhere.test does not exist or takes no mail\r\n"


def follow_on_paper(plan, answers):
    """Carry a plan out with answers from a dict; what it asked, and its result."""
    asked = []
    try:
        query = next(plan)
        while True:
            asked.append(query)
            query = plan.send(answers.get(query, Answer(no_domain=True)))
    except StopIteration as done:
        return asked, done.value


SIX = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"


@pytest.mark.parametrize(
    ("address", "queries"),
    [
        ("2001:db8::1", [Query(SIX, "PTR"), Query("mx.test", "AAAA")]),
        ("::ffff:192.0.2.1", [Query("1.2.0.192.in-addr.arpa", "PTR"), Query("mx.test", "A")]),
        ("local", []),
    ],
)
def test_addresses_of_both_families_are_looked_up(address, queries):
    answers = {
        Query(SIX, "PTR"): Answer(("mx.test",)),
        Query("1.2.0.192.in-addr.arpa", "PTR"): Answer(("mx.test",)),
        Query("mx.test", "A"): Answer(("192.0.2.1",)),
        Query("mx.test", "AAAA"): Answer(("2001:DB8:0::1",)),
    }
    assert follow_on_paper(has_name(address, confirm=True), answers) == (queries, None)
