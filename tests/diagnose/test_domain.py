"""What is said about a domain for what its zone says: one odd thing a case, and the record that mends it."""

import datetime as dt

import dns.zone
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from pillarbox.diagnose import domain as where
from pillarbox.diagnose import domain_hosts as hosts
from pillarbox.diagnose import domain_senders as senders
from pillarbox.diagnose.domain import Exchanger, Level, Remark
from pillarbox.diagnose.domain_hosts import Visit
from pillarbox.mailauth import keys
from pillarbox.mailauth.dns import Answer
from pillarbox.mailauth.mta_sts import Mode, StsPolicy
from pillarbox.mailauth.publish import Key, Pin, Record, sts_record

READERS = {
    "MX": lambda one: (one.preference, one.exchange.to_text(omit_final_dot=True).rstrip(".")),
    "TXT": lambda one: b"".join(one.strings).decode(),
    "PTR": lambda one: one.target.to_text(omit_final_dot=True),
    "TLSA": lambda one: (one.usage, one.selector, one.mtype, one.cert),
}
NOW = 1_800_000_000.0


def ask(plan, text, *, secure=False, failing=()):
    """Follow a plan with the answers of a zone; names in `failing` give none."""
    zone = dns.zone.from_text(
        f"@ 60 IN SOA ns admin 1 2 3 4 5\n@ 60 IN NS ns\n{text}", "d.test", relativize=False
    )
    try:
        query = next(plan)
        while True:
            query = plan.send(answer(zone, query, secure=secure, failing=failing))
    except StopIteration as done:
        return done.value


def answer(zone, query, *, secure, failing):
    if query.name in failing:
        return Answer(failed=True, detail="no answer in time")
    try:
        node = zone.get_node(f"{query.name}.")
    except KeyError:
        node = None
    if node is None:
        below = any(str(name).endswith(f".{query.name}.") for name in zone.nodes)
        return Answer(no_domain=not below, secure=secure)
    found = next((one for one in node if one.rdtype == dns.rdatatype.from_text(query.kind)), ())
    read = READERS.get(query.kind, lambda one: getattr(one, "address", ""))
    return Answer(tuple(sorted(map(read, found))), secure=secure)


def said(remarks):
    """What is not as it should be: level and words."""
    return [(one.level.name, one.found) for one in where.ranked(remarks) if one.level is not Level.OK]


# --- where mail goes


@pytest.mark.parametrize(
    ("zone", "level", "words"),
    [
        ("", "ERROR", "no host takes mail"),
        ("@ MX 10 gone", "ERROR", "gone.d.test, which does not exist"),
        ("@ MX 10 n\nn TXT x", "ERROR", "n.d.test, which has no address"),
        ("@ MX 10 192.0.2.1.", "ERROR", "MX names the address 192.0.2.1"),
        ("@ MX 10 in\nin A 10.0.0.1", "ERROR", "only addresses that the internet can't reach: 10.0.0.1"),
        ("@ MX 0 .\n@ MX 10 a\na A 9.9.9.9", "ERROR", "null MX stands beside others"),
        ("@ A 9.9.9.9", "HINT", "no MX record"),
    ],
)
def test_ways_on_which_no_mail_arrives(zone, level, words):
    remarks = ask(where.find_exchangers("d.test"), zone).remarks
    assert any(one[0] == level and words in one[1] for one in said(remarks)), remarks


def test_a_domain_that_does_not_exist():
    found = ask(where.find_exchangers("other.test"), "")
    assert not found.exists
    assert said(found.remarks) == [("ERROR", "other.test does not exist in DNS")]


def test_hosts_in_their_order_and_whether_dnssec_vouches_for_them():
    found = ask(
        where.find_exchangers("d.test"), "@ MX 20 b\n@ MX 10 a\na A 9.9.9.9\nb AAAA 2620:fe::fe", secure=True
    )
    assert [(one.name, one.addresses, one.secure) for one in found.hosts] == [
        ("a.d.test", ("9.9.9.9",), True),
        ("b.d.test", ("2620:fe::fe",), True),
    ]
    assert said(found.remarks) == []


def test_an_exchanger_that_is_only_an_alias_is_named_by_its_own_name():
    """The host still takes mail from those who look the other way."""

    def answers(query):
        if query.kind == "MX":
            return Answer(((10, "a.d.test"),))
        return Answer(("9.9.9.9",), name="b.d.test") if query.kind == "A" else Answer()

    plan = where.find_exchangers("d.test")
    query = next(plan)
    try:
        while True:
            query = plan.send(answers(query))
    except StopIteration as done:
        found = done.value
    assert [one.name for one in found.hosts] == ["a.d.test"]
    (remark,) = (one for one in found.remarks if one.level is Level.WARNING)
    assert "only an alias of b.d.test" in remark.found
    assert remark.record == Record("d.test", "MX", "10 b.d.test.")


def test_inner_addresses_are_good_if_an_inner_name_server_is_asked():
    found = ask(where.find_exchangers("d.test", private=True), "@ MX 10 in\nin A 10.0.0.1")
    assert (len(found.hosts), said(found.remarks)) == (1, [])


def test_no_answer_is_never_a_verdict():
    for failing in ("d.test", "a.d.test"):
        found = ask(where.find_exchangers("d.test"), "@ MX 10 a\na A 9.9.9.9", failing=(failing,))
        assert [one.level for one in found.remarks] == [Level.UNCLEAR]


def test_a_domain_without_mail_should_say_so_everywhere():
    found = ask(where.find_exchangers("d.test"), "@ MX 0 .")
    assert [str(one.record) for one in found.remarks if one.record] == [
        'd.test. 3600 IN TXT "v=spf1 -all"',
        '_dmarc.d.test. 3600 IN TXT "v=DMARC1; p=reject"',
    ]
    whole = '@ MX 0 .\n@ TXT "v=spf1 -all"\n_dmarc TXT "v=DMARC1; p=reject;"'
    found = ask(where.find_exchangers("d.test"), whole)
    assert (found.takes_mail, said(found.remarks)) == (False, [])


# --- SPF


@pytest.mark.parametrize(
    ("record", "level", "words", "better"),
    [
        (None, "WARNING", "does not say who sends", "v=spf1 mx ~all"),
        ("v=spf1 mxx ~all", "ERROR", "unknown mechanism: mxx", "v=spf1 mx ~all"),
        ("v=spf1 ip4:9.9.9.9 +all", "ERROR", "+all lets the whole world send", "v=spf1 ip4:9.9.9.9 ~all"),
        ("v=spf1 ip4:9.9.9.9 ?all", "WARNING", "?all says nothing", "v=spf1 ip4:9.9.9.9 ~all"),
        ("v=spf1 ip4:9.9.9.9", "WARNING", "has no end", "v=spf1 ip4:9.9.9.9 ~all"),
        ("v=spf1 ~all ip4:9.9.9.9", "WARNING", "ip4:9.9.9.9 behind ~all", "v=spf1 ip4:9.9.9.9 ~all"),
        ("v=spf1 mx ptr ~all", "HINT", "uses ptr", "v=spf1 mx ~all"),
        ("v=spf1 include:gone.d.test ~all", "ERROR", "gone.d.test has no SPF record", None),
        ("v=spf1 include:d.test ~all", "ERROR", "leads in a circle", None),
        ("v=spf1 a:g1.d.test ~all", "HINT", "names what is not there: a:g1.d.test", "v=spf1 ~all"),
        ("v=spf1 a:g1.d.test a:g2.d.test a:g3.d.test ~all", "ERROR", "what is not there", "v=spf1 ~all"),
        ("v=spf1 include:void.d.test ~all", "HINT", "names what is not there: a:g1.d.test", None),
        ("v=spf1 include:many.d.test ?a:a1.d.test mx ~all", "ERROR", "takes 11 look-ups", "v=spf1 include:many.d.test ?ip4:9.9.9.9 ip4:9.9.9.9 ~all"),
        ("v=spf1 include:many.d.test include:few.d.test ~all", "ERROR", "takes 12 look-ups, and 10 are allowed: include:many.d.test 9, include:few.d.test 3", None),
        ("v=spf1 include:many.d.test ~all", "HINT", "takes 9 of 10 look-ups", None),
        ("v=spf1 redirect=open.d.test", "OK", "1 of 10", None),
    ],
)  # fmt: skip
def test_spf(record, level, words, better):
    zone = "".join(f"a{n} A 9.9.9.9\n" for n in range(9))
    zone += 'many TXT "v=spf1 ' + " ".join(f"a:a{n}.d.test" for n in range(8)) + ' ~all"\n'
    zone += 'few TXT "v=spf1 a:a1.d.test exists:%{i}.d.test ~all"\nopen TXT "v=spf1 ip4:9.9.9.9 -all"\n'
    zone += 'void TXT "v=spf1 a:g1.d.test ~all"\n@ MX 10 a2\n'
    zone += f'@ TXT "{record}"' if record else ""
    remarks = ask(senders.check_spf("d.test"), zone)
    found = next((one for one in remarks if one.level.name == level and words in one.found), None)
    assert found is not None, remarks
    assert (found.record.data if found.record else None) == better


def test_two_spf_records_become_one():
    zone = '@ TXT "v=spf1 mx -all"\n@ TXT "v=spf1 include:x.test mx ~all"'
    (found,) = ask(senders.check_spf("d.test"), zone)
    assert (found.level, found.record.data) == (Level.ERROR, "v=spf1 include:x.test mx ~all")


def test_an_include_that_gives_no_answer_is_unclear():
    (found,) = ask(senders.check_spf("d.test"), '@ TXT "v=spf1 include:x.test ~all"', failing=("x.test",))
    assert found.level is Level.UNCLEAR


@pytest.mark.parametrize(("address", "level"), [("9.9.9.9", "OK"), ("9.9.9.10", "WARNING")])
def test_whether_an_address_may_send(address, level):
    (found,) = ask(senders.check_sending("d.test", address, NOW), '@ TXT "v=spf1 ip4:9.9.9.9 ~all"')
    assert found.level.name == level


# --- DKIM

RSA, WEAK, ED = keys.new_key("rsa"), rsa.generate_private_key(65537, 1024), keys.new_key("ed25519")
OWN = Key("s._domainkey.d.test", keys.format_record(ED))


def txt(name, text):
    return str(Record(name, "TXT", text))


@pytest.mark.parametrize(
    ("text", "own", "level", "words"),
    [
        (keys.format_record(RSA), None, "OK", "2048 bits"),
        (keys.format_record(ED), OWN, "OK", "ed25519"),
        (keys.format_record(WEAK), None, "WARNING", "an RSA key of 1024 bits can be broken"),
        (keys.format_record(ED).replace("k=ed", "t=y; k=ed"), None, "WARNING", "only tested"),
        (keys.format_record(RSA), OWN, "ERROR", "is not the key that signs here"),
        (None, OWN, "ERROR", "is not published"),
        ("v=DKIM1; p=", None, "OK", "is revoked"),
        ("v=DKIM1; p=AAAA", None, "ERROR", "p= is no key"),
    ],
    ids=[
        "RSA",
        "Ed25519",
        "weak",
        "tested",
        "another",
        "missing",
        "revoked",
        "no key",
    ],  # keys differ each time
)
def test_dkim(text, own, level, words):
    zone = txt("s._domainkey.d.test", text) if text else ""
    (found,) = ask(senders.check_selector("d.test", "s", own), zone)
    assert (found.level.name, words in found.found) == (level, True), found
    if own is not None and level == "ERROR":
        assert found.record == Record("s._domainkey.d.test", "TXT", own.record)


def test_a_selector_that_is_not_there_says_nothing():
    assert ask(senders.check_selector("d.test", "s"), "") == []
    assert [one.level for one in senders.judge_selectors("d.test", 20, [])] == [Level.HINT]


def test_selectors_that_get_no_answer_are_told_of_once():
    found = []
    for selector in ("a", "b", "c"):
        found += ask(
            senders.check_selector("d.test", selector), "", failing=(f"{selector}._domainkey.d.test",)
        )
    (one,) = senders.judge_selectors("d.test", 3, found)
    assert (one.level, one.found) == (
        Level.UNCLEAR,
        "TXT of a._domainkey.d.test: no answer in time; and 2 more",
    )


# --- DMARC


@pytest.mark.parametrize(
    ("record", "level", "words", "better"),
    [
        (None, "WARNING", "does not say what to do", "v=DMARC1; p=none; rua=mailto:postmaster@d.test"),
        ("v=DMARC1; p=rejct", "ERROR", "makes no sense", "v=DMARC1; p=none; rua=mailto:postmaster@d.test"),
        ("dmarc1; p=reject", "ERROR", "can't be read", "v=DMARC1; p=none; rua=mailto:postmaster@d.test"),
        (
            "v=DMARC1; p=none; rua=mailto:x@d.test",
            "HINT",
            "p=none",
            "v=DMARC1; p=quarantine; rua=mailto:x@d.test",
        ),
        (
            "v=DMARC1; p=reject; t=y; rua=mailto:x@d.test",
            "HINT",
            "t=y",
            "v=DMARC1; p=reject; rua=mailto:x@d.test",
        ),
        ("v=DMARC1; p=reject;", "HINT", "nobody gets", "v=DMARC1; p=reject; rua=mailto:postmaster@d.test"),
        ("v=DMARC1; p=reject; sp=none; rua=mailto:x@d.test", "HINT", "any subdomain", "v=DMARC1; p=reject; rua=mailto:x@d.test"),
        ("v=DMARC1; p=reject; rua=mailto:x@other.test", "WARNING", "gets no reports", "v=DMARC1"),
        ("v=DMARC1; p=reject; rua=mailto:x@d.test", "OK", "p=reject", None),
    ],
)  # fmt: skip
def test_dmarc(record, level, words, better):
    remarks = ask(senders.check_dmarc("d.test"), f'_dmarc TXT "{record}"' if record else "")
    found = next((one for one in remarks if one.level.name == level and words in one.found), None)
    assert found is not None, remarks
    assert (found.record.data if found.record else None) == better


def test_dmarc_of_the_domain_above_counts():
    (found,) = ask(senders.check_dmarc("sub.d.test"), '_dmarc TXT "v=DMARC1; p=reject"\nsub A 9.9.9.9')
    assert (found.level, "d.test counts" in found.found) == (Level.OK, True)


def test_two_dmarc_records_are_none():
    (found,) = ask(
        senders.check_dmarc("d.test"), '_dmarc TXT "v=DMARC1; p=none"\n_dmarc TXT "v=DMARC1; p=reject"'
    )
    assert found.level is Level.ERROR


# --- hosts


@pytest.mark.parametrize(
    ("zone", "level", "words"),
    [
        ("", "WARNING", "has no name"),
        ("1.2.0.192.in-addr.arpa. PTR a.d.test.\na A 192.0.2.1", "OK", "leads back"),
        ("1.2.0.192.in-addr.arpa. PTR a.d.test.\na A 192.0.2.2", "WARNING", "does not have that address"),
    ],
)
def test_reverse_dns(zone, level, words):
    def both():
        inner = where.check_reverse("192.0.2.1", "a.d.test")
        return (yield from inner)

    arpa, _, rest = zone.partition("\n")
    zones = {"arpa": arpa, "rest": rest}

    def reply(query):
        if query.kind == "PTR":
            return Answer(("a.d.test",)) if zones["arpa"] else Answer(no_domain=True)
        return Answer((rest.rpartition(" ")[2],))

    plan = both()
    query = next(plan)
    try:
        while True:
            query = plan.send(reply(query))
    except StopIteration as done:
        found = done.value
    assert (found.level.name, words in found.found) == (level, True)


GOOD = Visit("a.d.test", "9.9.9.9", encrypts=True, version="TLSv1.3", ends_at=NOW + 60 * 86_400)


def visited(**facts):
    return Visit(
        **({"host": GOOD.host, "address": GOOD.address, "encrypts": True, "version": "TLSv1.3"} | facts)
    )


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        ({"problem": "no answer in time", "encrypts": False}, "ERROR", "can't be reached: no answer in time"),
        ({"refused": "554 no", "encrypts": False}, "ERROR", "takes no mail from here: 554 no"),
        ({"encrypts": False}, "WARNING", "offers no encryption"),
        ({"encrypts": False, "handshake": "no shared cipher"}, "WARNING", "the handshake fails"),
        ({"version": "TLSv1"}, "WARNING", "no newer encryption than TLSv1"),
        ({"untrusted": "self-signed certificate"}, "WARNING", "proves nothing: self-signed"),
        ({"ends_at": NOW + 3 * 86_400}, "WARNING", "ends in 3 days"),
    ],
)
def test_what_a_visit_shows(facts, level, words):
    remarks = hosts.judge_visits([visited(**facts)], now=NOW)
    assert any(one.level.name == level and words in one.found for one in remarks), remarks


def test_one_dead_host_beside_a_good_one_is_no_disaster():
    dead = visited(host="b.d.test", problem="connection refused", encrypts=False)
    assert [one[0] for one in said(hosts.judge_visits([dead, GOOD], now=NOW))] == ["WARNING"]
    assert said(hosts.judge_visits([GOOD], now=NOW)) == []


def test_tls_reports():
    (found,) = ask(hosts.check_tls_reports("d.test"), "")
    assert found.record.data == "v=TLSRPTv1; rua=mailto:postmaster@d.test"
    assert said(ask(hosts.check_tls_reports("d.test"), str(found.record))) == []


# --- MTA-STS and DANE

HOST = Exchanger("a.d.test", 10, ("9.9.9.9",), secure=True)


@pytest.mark.parametrize(
    ("policy", "visit", "level", "words"),
    [
        (StsPolicy(Mode.ENFORCE, 2_592_000, ("b.d.test",)), GOOD, "ERROR", "does not name a.d.test"),
        (StsPolicy(Mode.TESTING, 2_592_000, ("b.d.test",)), GOOD, "WARNING", "does not name a.d.test"),
        (
            StsPolicy(Mode.ENFORCE, 2_592_000, ("*.d.test",)),
            visited(untrusted="expired"),
            "ERROR",
            "breaks the policy",
        ),
        (StsPolicy(Mode.TESTING, 2_592_000, ("*.d.test",)), GOOD, "HINT", "mode testing"),
        (StsPolicy(Mode.ENFORCE, 60, ("*.d.test",)), GOOD, "HINT", "forgotten after 60 seconds"),
        (StsPolicy(Mode.ENFORCE, 2_592_000, ("*.d.test",)), GOOD, "OK", "demands encryption"),
    ],
)
def test_mta_sts(policy, visit, level, words):
    remarks = hosts.judge_sts("d.test", policy, [HOST], [visit])
    (found,) = (one for one in remarks if one.level.name == level and words in one.found)
    proposed = {
        "does not name": (policy.mode, "b.d.test", "a.d.test"),
        "mode testing": (Mode.ENFORCE, "*.d.test"),
    }
    if words.startswith(tuple(proposed)):
        mode, *mx = next(proposed[one] for one in proposed if words.startswith(one))
        assert found.record == sts_record("d.test", str(StsPolicy(mode, policy.max_age_s, tuple(mx))))


def test_a_policy_is_proposed_with_the_record_that_announces_it():
    found = hosts.without_sts("d.test", [HOST])
    assert '"mx: a.d.test"' in found.advice
    assert found.record.name == "_mta-sts.d.test"


@pytest.fixture(scope="module")
def chain():
    issued = trustme.CA().issue_cert("a.d.test", not_after=dt.datetime(2100, 1, 1, tzinfo=dt.UTC))
    return (x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()).public_bytes(Encoding.DER),)


def test_dane(chain):
    visit = visited(chain=chain)
    zone = "a A 9.9.9.9\n"
    (proposed,) = ask(hosts.check_dane("d.test", HOST, [visit], now=NOW), zone, secure=True)
    assert (proposed.level, proposed.record.name) == (Level.HINT, "_25._tcp.a.d.test")
    right = f"{zone}{proposed.record}\n"
    assert said(ask(hosts.check_dane("d.test", HOST, [visit], now=NOW), right, secure=True)) == []
    wrong = f"{zone}_25._tcp.a TLSA 3 1 1 {'00' * 32}\n"
    (found,) = ask(hosts.check_dane("d.test", HOST, [visit], now=NOW), wrong, secure=True)
    assert (found.level, found.record) == (Level.ERROR, proposed.record)
    (found,) = ask(hosts.check_dane("d.test", HOST, [visited(encrypts=False)], now=NOW), right, secure=True)
    assert (found.level, "does not encrypt" in found.found) == (Level.ERROR, True)
    (found,) = ask(hosts.check_dane("d.test", HOST, [visit], now=NOW), right, secure=False)
    assert (found.level, "does not vouch" in found.found) == (Level.HINT, True)
    pins = [
        Pin("3 1 1 " + "11" * 32, "the key of the next certificate"),
        Pin(proposed.record.data, "the present key"),
    ]
    (found,) = said(ask(hosts.check_dane("d.test", HOST, [visit], now=NOW, pins=pins), right, secure=True))
    assert found == ("WARNING", "a.d.test has no TLSA record for the key of the next certificate")
    failing = ("_25._tcp.a.d.test",)
    (found,) = ask(hosts.check_dane("d.test", HOST, [visit], now=NOW), right, secure=True, failing=failing)
    assert (found.level, "do not deliver" in found.advice) == (Level.ERROR, True)
    useless = f"{zone}_25._tcp.a TLSA 1 1 1 {'00' * 32}\n"
    (found,) = ask(hosts.check_dane("d.test", HOST, [visit], now=NOW), useless, secure=True)
    assert (found.level, "can be used" in found.found) == (Level.WARNING, True)


def test_what_matters_most_comes_first():
    remarks = [
        Remark("TLS-RPT", Level.HINT, ""), Remark("TLS", Level.ERROR, ""), Remark("MX", Level.OK, ""),
        Remark("MX", Level.ERROR, ""), Remark("SPF", Level.WARNING, ""),
    ]  # fmt: skip
    assert [one.topic for one in where.ranked(remarks)] == ["MX", "TLS", "SPF", "TLS-RPT", "MX"]
