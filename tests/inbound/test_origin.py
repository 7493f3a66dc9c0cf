"""Who really sent it, asked at the door: mail over a real socket, DNS from a name server on loopback, and what follows."""

from __future__ import annotations

import time
from base64 import b64encode

import msgspec
import pytest

from pillarbox.inbound.counted import Counting
from pillarbox.mailauth import arc, dkim, keys
from pillarbox.mailauth.aggregate import DmarcRow
from pillarbox.mailauth.results import Finding
from pillarbox.policy.author import DmarcSettings
from pillarbox.policy.origin import OriginPolicy
from pillarbox.policy.origin_settings import ArcSettings, DkimSettings, SpfSettings
from pillarbox.policy.rules import Role

KEY, ED = keys.new_key("rsa"), keys.new_key("ed25519")
MESSAGE = (
    b"From: Eve <eve@sender.test>\r\nTo: bob@example.org\r\nSubject: hello\r\nDate: x\r\nMessage-ID: <1@sender.test>\r\n"
    b"\r\nHello Bob\r\n"
)


def txt(**texts):
    """A zone of TXT records; "__" in a name stands for a dot, a leading "d_" for an underscore."""
    zone = {}
    for name, text in texts.items():
        owner = name.replace("__", ".").replace("d_", "_") + ".test."
        pieces = " ".join(f'"{text[at : at + 250]}"' for at in range(0, len(text), 250))
        zone[f"{owner} TXT"] = (
            [(owner, 300, "IN", "TXT", pieces)] if text not in {"servfail", "silent"} else text
        )
    return zone


def signed(message=MESSAGE, domain="sender.test", key=KEY):
    header, body_hash = dkim.message_hash(message)
    return dkim.sign(header, body_hash, [dkim.Signer(domain, "s", key)], now=time.time()) + message


def sealed(message, domain, results):
    header, body_hash = dkim.message_hash(message)
    signer = dkim.Signer(domain, "s", KEY)
    return (
        arc.seal(header, body_hash, signer, server=domain, findings=results, chain="none", now=time.time())
        + message
    )


KEYS = txt(s__d_domainkey__sender=keys.format_record(KEY), s__d_domainkey__list=keys.format_record(KEY))
NO = txt(sender="v=spf1 -all")
YES = txt(sender="v=spf1 ip4:127.0.0.1 -all")
REJECT = txt(d_dmarc__sender="v=DMARC1; p=reject")


@pytest.fixture
def post(open_office, serve_dns, dial):
    """Send one message from 127.0.0.1 to bob: the last reply. `post.office` has what was stored."""

    async def post(
        zone, message=MESSAGE, *, sender="eve@sender.test", helo="mail.sender.test", options=None, **kinds
    ):
        server = await serve_dns(zone)
        names = {"spf": SpfSettings, "dkim": DkimSettings, "dmarc": DmarcSettings, "arc": ArcSettings}
        settings = {name: kinds.get(name, kind()) for name, kind in names.items()}
        settings["iprev"] = kinds.get("iprev", False)
        post.dns = server
        post.office = await open_office(
            origin=OriginPolicy(**settings),
            nameserver=server.address,
            dns_timeout_s=0.6
            if "silent" in zone.values()
            else 30.0,  # on a busy machine an answer may take its time
            **(options or {}),
        )
        caller = await dial(post.office.port)
        await caller.reply()
        await caller.ask(f"EHLO {helo}".encode())
        assert (await caller.ask(f"MAIL FROM:<{sender}>".encode())).startswith(b"250")
        assert (await caller.ask(b"RCPT TO:<bob@example.org>")).startswith(b"250")
        await caller.ask(b"DATA")
        await caller.send(message)
        return (await caller.ask(b".")).decode().rstrip()

    return post


async def test_E550_8_the_host_is_not_one_of_the_senders(post):
    words = txt(why="%{i} is not ours")
    zone = txt(sender="v=spf1 ip4:192.0.2.1 -all exp=why.test") | words
    reply = await post(zone, spf=SpfSettings(check=True, fail="reject"))
    assert (
        reply
        == "550 5.7.23 sender.test does not let 127.0.0.1 send its mail (SPF fail): 127.0.0.1 is not ours"
    )
    assert not post.office.queued


async def test_E451_4_dns_gives_no_answer_about_the_sender(post):
    for trouble in ("servfail", "silent"):
        reply = await post(txt(sender=trouble), spf=SpfSettings(check=True, fail="reject", temperror="defer"))
        assert reply.startswith("451 4.7.24 The SPF record of sender.test can't be looked up now")


@pytest.mark.parametrize("trouble", ["servfail", "silent"])
async def test_E451_4_dns_trouble_refuses_nothing_for_good(post, trouble):
    zone = txt(sender=trouble, d_dmarc__sender=trouble, s__d_domainkey__sender=trouble)
    reply = await post(
        zone,
        signed(),
        spf=SpfSettings(check=True, fail="reject", permerror="reject"),
        dkim=DkimSettings(check=True, missing="reject", not_author="reject"),
        dmarc=DmarcSettings(check=True),
    )
    assert reply.startswith("451 4.4.3 ")


async def test_E550_8_a_record_that_is_not_well_formed_is_named(post):
    reply = await post(txt(sender="v=spf1 ip4:1.2.3 -all"), spf=SpfSettings(check=True, permerror="reject"))
    assert (
        reply
        == "550 5.7.24 The SPF record of sender.test can't be used: sender.test: not an address: ip4:1.2.3"
    )


async def test_E550_13_neither_spf_nor_dkim_pass_and_the_author_wants_it_refused(post):
    reply = await post(NO | REJECT, dmarc=DmarcSettings(check=True))
    assert reply.startswith("550 5.7.26 SPF and DKIM both failed, and sender.test wants such mail refused")


async def test_E550_13_what_passes_is_for_another_domain(post):
    zone = REJECT | txt(other="v=spf1 ip4:127.0.0.1 -all")
    reply = await post(zone, sender="eve@other.test", dmarc=DmarcSettings(check=True))
    assert reply.startswith("550 5.7.1 What passed is not for sender.test")


async def test_E550_14_no_signature_passes(post):
    reply = await post(KEYS, dkim=DkimSettings(check=True, missing="reject"))
    assert reply == "550 5.7.20 No DKIM signature passes"
    reply = await post(
        KEYS, signed().replace(b"Hello", b"Hullo"), dkim=DkimSettings(check=True, missing="reject")
    )
    assert reply == "550 5.7.20 No DKIM signature passes: the body was changed"


async def test_E550_14_the_key_of_the_signature_is_too_short(post):
    settings = DkimSettings(check=True, unacceptable="reject", min_bits=3072)
    reply = await post(KEYS, signed(), dkim=settings)
    assert reply == "550 5.7.21 No acceptable DKIM signature passes: an RSA key of 2048 bits is too short"


async def test_E550_14_no_signature_is_by_the_author(post):
    settings = DkimSettings(check=True, not_author="reject")
    reply = await post(
        KEYS | REJECT | YES, signed(domain="list.test"), dkim=settings, dmarc=DmarcSettings(check=True)
    )
    assert reply == "550 5.7.22 No DKIM signature is by the domain in From, sender.test"


async def test_E550_15_the_chain_of_seals_is_broken(post):
    message = sealed(MESSAGE, "list.test", []).replace(b"Hello", b"Hullo")
    reply = await post(KEYS, message, arc=ArcSettings(check=True, broken="reject"))
    assert (
        reply
        == "550 5.7.29 The ARC chain of the message is broken: ARC-Message-Signature: the body was changed"
    )


@pytest.mark.parametrize(("action", "code"), [("defer", "451"), ("warn", "250"), ("tag", "250")])
async def test_what_follows_is_a_setting(post, action, code):
    assert (await post(NO, spf=SpfSettings(check=True, fail=action))).startswith(code)


async def stored(post):
    data, _ = await post.office.stored()
    return data


async def test_findings_stand_in_front_of_the_message(post):
    zone = KEYS | YES | REJECT
    reply = await post(
        zone,
        signed(),
        spf=SpfSettings(check=True),
        dkim=DkimSettings(check=True),
        dmarc=DmarcSettings(check=True),
    )
    assert reply.startswith("250")
    data = await stored(post)
    assert data.startswith(
        b"Authentication-Results: mx.example.org;\r\n"
        b"\tspf=pass smtp.mailfrom=sender.test;\r\n"
        b"\tdkim=pass header.d=sender.test header.s=s header.a=rsa-sha256 header.b="
    )
    assert (
        b"\tdmarc=pass (p=reject) header.from=sender.test\r\nReceived-SPF: pass (mx.example.org: domain of"
        in data
    )
    assert data.endswith(signed()[-len(MESSAGE) :])


async def test_letters_of_one_kind_have_findings_of_their_own(post, dial):
    """The first is asked about, the second is found out from memory, the others are like the second; the last is forged."""
    letters = [signed(MESSAGE + b"%d\r\n" % number) for number in range(5)]
    letters.append(letters[-1] + b"more\r\n")
    counted = []
    kinds = {"spf": SpfSettings(check=True), "dmarc": DmarcSettings(check=True, reject="tag")}
    zone = KEYS | NO | txt(d_dmarc__sender="v=DMARC1; p=reject; rua=mailto:d@sender.test")
    await post(zone, letters[0], options={"count": Counting(counted.append, suffixes=False)}, **kinds)
    caller = await dial(post.office.port)
    await caller.reply()
    await caller.ask(b"EHLO mail.sender.test")
    for number, letter in enumerate(letters[1:]):
        await caller.ask(b"MAIL FROM:<eve%d@sender.test>" % number)
        await caller.ask(b"RCPT TO:<bob@example.org>")
        await caller.ask(b"DATA")
        await caller.send(letter)
        assert (await caller.ask(b".")).startswith(b"250")
    for number, letter in enumerate(letters):
        data, _ = await post.office.stored(number)
        (made,) = dkim.signatures(dkim.Header(letter.partition(b"\r\n\r\n")[0]))
        field = data.partition(b"Received: ")[0].decode()
        good = number < len(letters) - 1
        assert f"dkim={'pass' if good else 'fail'}" in field
        assert f"dmarc={'pass' if good else 'fail'}" in field
        assert b64encode(made.signature)[:8].decode() in field
        assert f'envelope-from="eve{number - 1 if number else ""}@sender.test"' in field
    assert [one.dkim_aligned for one in counted] == [True] * 5 + [False]
    assert len(set(counted)) == 2


async def test_the_name_in_helo_can_be_asked_about_too(post):
    zone = YES | txt(mail__sender="v=spf1 ~all", only__sender="v=spf1 -all")
    assert (await post(zone, spf=SpfSettings(check=True, helo=True)))[:3] == "250"
    data = (await stored(post)).decode()
    assert "spf=pass smtp.mailfrom=sender.test;\r\n\tspf=softfail smtp.helo=mail.sender.test" in data
    assert data.count("Received-SPF: ") == 2
    assert "domain of mail.sender.test discourages" in data
    strict = SpfSettings(check=True, helo=True, fail="reject")
    refused = await post(zone, spf=strict, helo="only.sender.test")
    assert refused == "550 5.7.23 only.sender.test does not let 127.0.0.1 send its mail (SPF fail)"


async def test_the_trace_tells_what_dns_said(post):
    await post(YES | REJECT, spf=SpfSettings(check=True), dmarc=DmarcSettings(check=True))
    queued = post.office.queued[0]
    kept = post.office.ledger.show(queued.id)
    assert "spf=pass smtp.mailfrom=sender.test" in kept.trace.origin
    assert "TXT sender.test: v=spf1 ip4:127.0.0.1 -all" in kept.trace.origin
    assert "TXT _dmarc.sender.test: v=DMARC1; p=reject" in kept.trace.origin


FORGED = b"Authentication-Results: mx.example.org; dmarc=pass\r\nAUTHENTICATION-results :\r\n (x) MX.example.org ; spf=pass\r\n"
FOREIGN = b"Authentication-Results: other.test; dmarc=pass\r\n"


@pytest.mark.parametrize("octets", [0, 300_000])
async def test_results_that_a_stranger_wrote_in_our_name_are_disowned(post, octets):
    """A large body lies in a file, which is not written again."""
    message = (
        FORGED + FOREIGN + MESSAGE + b"x" * 60 * (octets > 0) + b"\r\nxxxxxxxx" * (octets // 10) + b"\r\n"
    )
    assert (await post(YES, message, spf=SpfSettings(check=True))).startswith("250")
    data = await stored(post)
    lower = data.lower()
    assert lower.count(b"\nx-foreign-auth-results") == 2
    assert lower.count(b"authentication-results") == 2
    assert b"\n" + FOREIGN in data
    assert data.endswith(message[len(FORGED) :])


async def test_a_large_body_is_verified_from_its_file(post):
    message = signed(MESSAGE + b"a line of text  \r\n" * 20_000)
    assert (await post(KEYS, message, dkim=DkimSettings(check=True, missing="reject"))).startswith("250")
    assert post.office.queued
    assert (
        await post(KEYS, message + b"more\r\n", dkim=DkimSettings(check=True, missing="reject"))
    ).startswith("550")


async def test_a_trusted_sealer_saves_what_forwarding_broke(post):
    passed = [Finding("dmarc", "pass", (("header.from", "sender.test"),))]
    message = sealed(MESSAGE, "list.test", passed)
    settings = {
        "dmarc": DmarcSettings(check=True),
        "arc": ArcSettings(check=True, trusted_sealers=("list.test",)),
    }
    zone = KEYS | NO | REJECT
    assert (await post(zone, message, **settings)).startswith("250")
    assert b"dmarc=fail (p=reject, not heeded: arc)" in await stored(post)
    for bad in (sealed(MESSAGE, "list.test", []), message.replace(b"Hello", b"Hullo")):
        assert (await post(zone, bad, **settings)).startswith("550 5.7.26")
    settings["arc"] = ArcSettings(check=True, trusted_sealers=("other.test",))
    assert (await post(zone, message, **settings)).startswith("550 5.7.26")


async def test_local_exceptions_are_heeded(post):
    zone = NO | REJECT
    for exception in (
        DmarcSettings(check=True, except_domains=("Sender.test",)),
        DmarcSettings(check=True, except_networks=("127.0.0.0/8",)),
        DmarcSettings(check=True, enforce=False),
    ):
        assert (await post(zone, dmarc=exception)).startswith("250")


@pytest.mark.parametrize(
    "fields",
    [b"", b"From: a@sender.test\r\nFrom: b@other.test\r\n", b"From: nobody\r\n", b"From: a@[192.0.2.1]\r\n"],
)
async def test_E550_13_a_message_without_one_author_can_be_refused(post, fields):
    message = fields + MESSAGE.partition(b"\r\n")[2]
    reply = await post(NO, message, dmarc=DmarcSettings(check=True, no_author="reject"))
    assert reply.startswith("550 5.7.1 There is not exactly one From field")


async def test_the_strictest_of_several_authors_counts(post):
    message = MESSAGE.replace(b"Eve <eve@sender.test>", b"a@other.test, eve@sender.test", 1)
    assert (await post(NO | REJECT, message, dmarc=DmarcSettings(check=True))).startswith("550 5.7.26")


@pytest.mark.parametrize(
    "options",
    [{"relay": ("127.0.0.0/8",)}, {"role": Role.RELAY, "relay": ("127.0.0.0/8",)}, {"role": Role.SANDBOX}],
)
async def test_our_own_are_not_asked(post, options):
    settings = {"spf": SpfSettings(check=True, fail="reject"), "dmarc": DmarcSettings(check=True)}
    assert (await post(NO | REJECT, options=options, **settings)).startswith("250")
    assert post.dns.asked == []
    assert b"Authentication-Results" not in await stored(post)


QUARANTINE = txt(d_dmarc__sender="v=DMARC1; p=quarantine; rua=mailto:d@sender.test")


@pytest.mark.parametrize(
    ("settings", "code", "mark", "comment"),
    [
        ({}, "250", True, b"(p=quarantine, taken with suspicion)"),
        ({"quarantine": "hold"}, "250", False, b"(p=quarantine, taken with suspicion)"),
        ({"quarantine": "tag"}, "250", False, b"(p=quarantine, not heeded: setting)"),
        ({"enforce": False}, "250", False, b"(p=quarantine, not heeded: not enforced)"),
        ({"except_domains": ("sender.test",)}, "250", False, b"(p=quarantine, not heeded: domain)"),
        (
            {"quarantine": "reject"},
            "550 5.7.26 SPF and DKIM both failed, and sender.test wants such mail put aside",
            False,
            b"",
        ),
    ],
)
async def test_suspicion_is_a_setting(post, settings, code, mark, comment):
    """What the domain in From wants looked at with suspicion."""
    reply = await post(NO | QUARANTINE, dmarc=DmarcSettings(check=True, **settings))
    assert reply.startswith(code)
    if code == "250":
        data = await stored(post)
        assert (b"X-Spam-Flag: YES\r\n" in data) == mark
        assert comment in data


async def test_what_is_to_be_refused_can_be_taken_as_junk(post):
    reply = await post(NO | REJECT, dmarc=DmarcSettings(check=True, reject="junk"))
    assert reply.startswith("250")
    assert b"X-Spam-Flag: YES\r\n" in await stored(post)


async def test_a_policy_that_is_tried_out_is_one_step_milder(post):
    zone = NO | txt(d_dmarc__sender="v=DMARC1; p=reject; t=y")
    assert (await post(zone, dmarc=DmarcSettings(check=True))).startswith("250")
    assert b"X-Spam-Flag: YES\r\n" in await stored(post)


def named(*names, back="127.0.0.1"):
    owner = "1.0.0.127.in-addr.arpa."
    zone = {f"{owner} PTR": [(owner, 300, "IN", "PTR", f"{name}.") for name in names]}
    return zone | {f"{name}. A": [(f"{name}.", 300, "IN", "A", back)] for name in names}


@pytest.mark.parametrize(
    ("zone", "finding"),
    [
        (named("mail.sender.test"), b"iprev=pass (mail.sender.test) policy.iprev=127.0.0.1"),
        (
            named("mail.sender.test", back="192.0.2.1"),
            b'iprev=fail (mail.sender.test) reason="mail.sender.test does not lead back to it" policy.iprev=127.0.0.1',
        ),
        ({}, b'iprev=permerror reason="there is none" policy.iprev=127.0.0.1'),
        ({"1.0.0.127.in-addr.arpa. PTR": "servfail"}, b"iprev=temperror reason="),
    ],
)
async def test_the_name_of_the_client_is_a_finding_too(post, zone, finding):
    assert (await post(zone, iprev=True)).startswith("250")
    data = await stored(post)
    assert finding in data.replace(b"\r\n\t", b" ")
    assert (b"(mail.sender.test [127.0.0.1])" in data) == finding.startswith(b"iprev=pass")
    assert "PTR 1.0.0.127.in-addr.arpa: " in post.office.ledger.show(post.office.queued[0].id).trace.origin


async def test_each_message_is_counted_for_the_domains_that_ask_for_reports(post):
    counted = []
    record = "v=DMARC1; p=quarantine; rua=mailto:d@sender.test"
    options = {"count": Counting(counted.append, suffixes=False)}
    await post(
        NO | QUARANTINE | KEYS, signed(domain="list.test"), dmarc=DmarcSettings(check=True), options=options
    )
    await post(YES | QUARANTINE, dmarc=DmarcSettings(check=True), options=options)
    await post(YES | REJECT, dmarc=DmarcSettings(check=True), options=options)
    exception = DmarcSettings(check=True, except_networks=("127.0.0.0/8",))
    await post(NO | QUARANTINE, sender="", dmarc=exception, options=options)
    row = DmarcRow(
        "sender.test", record, "127.0.0.1", "sender.test", "quarantine", envelope_from="sender.test"
    )
    seen = [msgspec.structs.replace(one, dkim=(), spf=None) for one in counted]
    assert seen == [
        row,
        msgspec.structs.replace(row, disposition="pass", spf_aligned=True),
        msgspec.structs.replace(
            row, disposition="none", envelope_from="", reasons=(("trusted_forwarder", ""),)
        ),
    ]
    assert [(one.domain, one.selector, one.result) for one in counted[0].dkim] == [("list.test", "s", "pass")]
    assert [(one.spf.domain, one.spf.result) for one in counted] == [
        ("sender.test", "fail"),
        ("sender.test", "pass"),
        ("mail.sender.test", "none"),
    ]


async def test_hooks_learn_what_was_found(post):
    class Watcher:
        def decide_message(self, message):
            seen.extend(message.findings)

    seen = []
    await post(YES, options={"plugins": (Watcher(),)}, spf=SpfSettings(check=True))
    assert [(one.method, one.result) for one in seen] == [("spf", "pass")]
