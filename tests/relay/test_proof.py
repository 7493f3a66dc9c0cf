"""What a host must prove before it gets mail: by TLSA records, by a policy, or because the route says so."""

import hashlib
import ssl

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pillarbox import testing
from pillarbox.mail.envelope import Notify, Terms
from pillarbox.mailauth.mta_sts import Mode, StsPolicy
from pillarbox.policy.memory import Memory
from pillarbox.queue.outcome import History, settle
from pillarbox.queue.schedule import RetrySettings
from pillarbox.queue.spool import State
from pillarbox.relay.demand import StsFinding
from pillarbox.relay.plan import Tls
from pillarbox.relay.protection import Protection
from pillarbox.relay.session import Patience
from pillarbox.relay.tls_levels import Level, forget, known
from pillarbox.relay.tls_watch import TlsWatch
from pillarbox.testing import FakeResolver, ScriptedPeer, StartTls

HASTY = Patience(connect_s=2, command_s=2, tls_s=2, end_s=2, quit_s=0.1)
TLS = ("STARTTLS", "PIPELINING")


def letter(*, body=b"Subject: x\r\n\r\nx\r\n", sender="a@here.test", terms=None):
    parameters = {"terms": terms} if terms is not None else {}
    return testing.letter("b@there.test", sender=sender, body=body, parameters=parameters)


def der(pem):
    return x509.load_pem_x509_certificate(pem.bytes()).public_bytes(Encoding.DER)


class Host:
    """The certificates of mx.there.test: by an authority, and who the authority is."""

    def __init__(self, folder, *names):
        self.authority = trustme.CA()
        self.issued = self.authority.issue_cert(*(names or ("mx.there.test",)))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.issued.configure_cert(self.context)
        for pem in (self.authority.cert_pem,):  # usage 2 wants the authority shown, too
            (folder / "chain.pem").write_bytes(
                self.issued.private_key_pem.bytes() + self.issued.cert_chain_pems[0].bytes() + pem.bytes()
            )
        self.whole = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.whole.load_cert_chain(folder / "chain.pem")
        self.asked = []
        for context in (self.context, self.whole):
            context.sni_callback = lambda _object, name, _context: self.asked.append(name)
        self.ca_file = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca_file))

    @property
    def own(self):
        return (3, 0, 1, hashlib.sha256(der(self.issued.cert_chain_pems[0])).digest())

    @property
    def anchor(self):
        return (2, 0, 1, hashlib.sha256(der(self.authority.cert_pem)).digest())


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


WRONG = (3, 1, 1, bytes(32))


@pytest.fixture
async def there(monkeypatch):
    """Start the one exchanger of there.test."""
    peers = []

    async def start(script=None, extensions=TLS):
        peer = ScriptedPeer(script, host="127.0.0.2", extensions=extensions)
        await peer.__aenter__()
        peers.append(peer)
        monkeypatch.setattr("pillarbox.relay.destination.SMTP_PORT", peer.port)
        return peer

    yield start
    for peer in peers:
        await peer.__aexit__()


def zone(*tlsa, signed=True, failing=(), aliases=None, owner="mx.there.test"):
    return FakeResolver(
        mx={"there.test": [(10, "mx.there.test")]},
        addresses={"mx.there.test": ["127.0.0.2"], "real.there.test": ["127.0.0.2"]},
        tlsa={owner: tlsa},
        failing=failing,
        aliases=aliases,
        signed=signed,
    )


def policy(mode=Mode.ENFORCE, *mx):
    finding = StsFinding(StsPolicy(mode, 86400, mx or ("*.there.test",)), "id1")

    async def find(_domain):
        return finding

    return find


class Counted:
    """What is counted for reports."""

    def __init__(self):
        self.rows = []

    def __call__(self, row):
        self.rows.append(row)

    @property
    def results(self):
        return [(row.policy, row.failure.result if row.failure else "") for row in self.rows]


@pytest.fixture
def deliver(courier_for):
    async def send(
        resolver, message=None, *, find_policy=None, dane=True, watch=None, level=None, **settings
    ):
        protection = Protection(resolver.lookup if dane else None, find_policy, watch=watch)
        courier = courier_for(
            "mx:there.test", resolver=resolver, protection=protection, level=level, patience=HASTY, **settings
        )
        return (await courier.deliver(message or letter()))[0]

    return send


def cause(result):
    return result.reply.cause_id if not result.reply.positive else "taken"


# --- DANE


async def test_a_host_that_its_own_record_fits(there, host, deliver):
    """Nobody vouches for its certificate, and it need not: the record does."""
    peer = await there({"STARTTLS": StartTls(host.context)})
    counted = Counted()
    result = await deliver(zone(WRONG, host.own), watch=TlsWatch(count=counted))
    assert cause(result) == "taken"
    assert peer.visits[0].encrypted
    assert host.asked == ["mx.there.test"]
    assert result.tls.startswith("TLSv1.3; DANE: 2 TLSA of mx.there.test; certificate of mx.there.test")
    assert counted.results == [("tlsa", "")]


async def test_a_host_that_no_record_fits_gets_nothing(there, host, deliver):
    peer = await there({"STARTTLS": StartTls(host.context)})
    counted = Counted()
    result = await deliver(zone(WRONG), watch=TlsWatch(count=counted), ca_file=str(host.ca_file))
    assert cause(result) == "transport.dane_mismatch"
    assert str(result.reply).startswith("451 4.7.5 mx.there.test[127.0.0.2]")
    assert "DANE: 1 TLSA of mx.there.test" in result.tls
    assert not peer.messages
    assert counted.results == [("tlsa", "validation-failure")]


@pytest.mark.parametrize(
    ("names", "taken"), [(("mx.there.test",), True), (("there.test",), True), (("else.test",), False)]
)
async def test_below_an_authority_of_a_record_the_name_counts(there, tmp_path, deliver, names, taken):
    """The host's own name, or that of the domain (RFC 7672 3.2.2)."""
    host = Host(tmp_path, *names)
    peer = await there({"STARTTLS": StartTls(host.whole)})
    result = await deliver(zone(host.anchor))
    assert bool(peer.messages) is taken
    assert cause(result) == ("taken" if taken else "transport.dane_mismatch")


@pytest.mark.parametrize("script", [{"STARTTLS": "454 4.7.0 Not now"}, {"EHLO": "250 mx.there.test"}])
async def test_no_tls_where_there_are_records_is_no_mail(there, deliver, host, script):
    peer = await there(script)
    result = await deliver(zone(host.own))
    assert result.reply.temporary
    assert not peer.messages


async def test_records_that_nobody_can_check_demand_tls_and_no_more(there, host, deliver):
    unusable = (0, 0, 1, bytes(32)), (1, 1, 1, bytes(32)), (3, 9, 9, b"x")
    peer = await there({"STARTTLS": StartTls(host.context)})
    result = await deliver(zone(*unusable))
    assert cause(result) == "taken"
    assert peer.visits[0].encrypted
    assert "no usable TLSA" in result.tls


async def test_and_without_tls_nothing_is_sent(there, deliver):
    peer = await there(extensions=())
    assert cause(await deliver(zone((0, 0, 1, bytes(32))))) == "transport.dane_mismatch"
    assert not peer.messages


async def test_no_answer_about_records_keeps_mail_back(there, host, deliver):
    """It may be an attack: the host is not even connected to."""
    peer = await there({"STARTTLS": StartTls(host.context)})
    counted = Counted()
    resolver = zone(host.own, failing=[f"_{peer.port}._tcp.mx.there.test"])
    result = await deliver(resolver, watch=TlsWatch(count=counted))
    assert cause(result) == "transport.dane_unknown"
    assert not peer.visits
    assert counted.results == [("tlsa", "dnssec-invalid")]


async def test_records_count_only_where_dnssec_vouches_for_the_exchangers(there, host, deliver):
    peer = await there({"STARTTLS": StartTls(host.context)})
    assert cause(await deliver(zone(WRONG, signed=False))) == "taken"
    assert peer.messages


async def test_dane_that_is_off_asks_nothing(there, host, deliver):
    await there({"STARTTLS": StartTls(host.context)})
    assert cause(await deliver(zone(WRONG), dane=False)) == "taken"


async def test_an_alias_is_known_by_the_name_at_its_end(there, tmp_path, deliver):
    host = Host(tmp_path, "real.there.test")
    peer = await there({"STARTTLS": StartTls(host.whole)})
    aliases = {"mx.there.test": "real.there.test"}
    assert cause(await deliver(zone(host.anchor, owner="real.there.test", aliases=aliases))) == "taken"
    assert peer.messages
    assert host.asked == ["real.there.test"]


async def test_a_route_may_demand_dane(there, host, deliver):
    peer = await there({"STARTTLS": StartTls(host.context)})
    assert cause(await deliver(zone(), level=Tls.DANE)) == "transport.no_proof"
    assert not peer.visits
    assert cause(await deliver(zone(host.own), level=Tls.DANE)) == "taken"


async def test_so_may_a_route_to_a_host_that_it_names(there, host, courier_for):
    peer = await there({"STARTTLS": StartTls(host.context)})
    for tlsa, expected in ((WRONG, "transport.dane_mismatch"), (host.own, "taken")):
        resolver = zone(tlsa)
        courier = courier_for(
            f"smtp://mx.there.test:{peer.port}?tls=dane",
            resolver=resolver,
            protection=Protection(resolver.lookup),
            patience=HASTY,
        )
        assert cause((await courier.deliver(letter()))[0]) == expected


# --- MTA-STS


async def test_a_policy_wants_a_certificate_that_is_trusted(there, host, deliver):
    peer = await there({"STARTTLS": StartTls(host.context)})
    counted = Counted()
    watch = TlsWatch(count=counted)
    resolver = zone(signed=False)
    result = await deliver(resolver, find_policy=policy(), watch=watch)
    assert cause(result) == "transport.sts_failed"
    assert "there.test: certificate verify failed" in result.reply.text
    assert not peer.messages
    result = await deliver(resolver, find_policy=policy(), watch=watch, ca_file=str(host.ca_file))
    assert cause(result) == "taken"
    assert "MTA-STS enforce, id id1; certificate of mx.there.test" in result.tls
    assert counted.results == [("sts", "certificate-not-trusted"), ("sts", "")]
    assert counted.rows[0].mx_hosts == ("*.there.test",)


async def test_it_wants_one_for_the_hosts_name(there, tmp_path, deliver):
    host = Host(tmp_path, "else.test")
    peer = await there({"STARTTLS": StartTls(host.context)})
    counted = Counted()
    result = await deliver(
        zone(), find_policy=policy(), ca_file=str(host.ca_file), watch=TlsWatch(count=counted)
    )
    assert cause(result) == "transport.sts_failed"
    assert not peer.messages
    assert counted.results == [("sts", "certificate-host-mismatch")]


async def test_it_wants_tls(there, deliver):
    peer = await there(extensions=())
    result = await deliver(zone(), find_policy=policy())
    assert cause(result) == "transport.sts_failed"
    assert "offers no TLS" in result.reply.text
    assert not peer.messages


async def test_a_host_that_it_does_not_name_is_not_connected_to(there, host, deliver):
    peer = await there({"STARTTLS": StartTls(host.context)})
    counted = Counted()
    find_policy = policy(Mode.ENFORCE, "mx.elsewhere.test")
    result = await deliver(
        zone(signed=False), find_policy=find_policy, ca_file=str(host.ca_file), watch=TlsWatch(count=counted)
    )
    assert cause(result) == "transport.sts_not_named"
    assert not peer.visits
    assert counted.results == [("sts", "validation-failure")]


@pytest.mark.parametrize("names", [("mx.there.test",), ("mx.elsewhere.test",)])
async def test_a_policy_in_testing_is_told_of_and_not_enforced(there, host, deliver, names):
    """A second connection carries the mail, because a handshake that failed can't be taken back."""
    peer = await there({"STARTTLS": StartTls(host.context)})
    counted = Counted()
    result = await deliver(zone(), find_policy=policy(Mode.TESTING, *names), watch=TlsWatch(count=counted))
    assert cause(result) == "taken"
    assert [visit.encrypted for visit in peer.visits][-1]
    assert counted.results[0][0] == "sts"
    assert counted.results[0][1] in ("certificate-not-trusted", "validation-failure")


async def test_a_policy_in_testing_that_is_met_costs_no_second_connection(there, host, deliver):
    peer = await there({"STARTTLS": StartTls(host.context)})
    result = await deliver(zone(), find_policy=policy(Mode.TESTING), ca_file=str(host.ca_file))
    assert cause(result) == "taken"
    assert len(peer.visits) == 1


async def test_dane_comes_before_a_policy(there, host, deliver):
    """What fits the records needs no authority; what does not fit them is not saved by one."""
    await there({"STARTTLS": StartTls(host.context)})
    assert cause(await deliver(zone(host.own), find_policy=policy())) == "taken"
    result = await deliver(zone(WRONG), find_policy=policy(), ca_file=str(host.ca_file))
    assert cause(result) == "transport.dane_mismatch"


async def test_secure_takes_either(there, host, deliver):
    await there({"STARTTLS": StartTls(host.context)})
    trusting = {"ca_file": str(host.ca_file), "level": Tls.SECURE}
    assert cause(await deliver(zone(), **trusting)) == "transport.no_proof"
    assert cause(await deliver(zone(), find_policy=policy(Mode.TESTING), **trusting)) == "transport.no_proof"
    assert cause(await deliver(zone(), find_policy=policy(), **trusting)) == "taken"
    assert cause(await deliver(zone(host.own), **trusting)) == "taken"


async def test_encrypted_takes_any_certificate_and_required_does_not(there, host, deliver):
    peer = await there({"STARTTLS": [StartTls(host.context)]})
    assert cause(await deliver(zone(signed=False), level=Tls.ENCRYPTED)) == "taken"
    assert peer.visits[0].encrypted
    assert cause(await deliver(zone(signed=False), level=Tls.REQUIRED)) == "delivery.tls_failed"
    assert len(peer.messages) == 1


# --- REQUIRETLS

STRICT = Terms(require_tls=True)
KEEPS = ("STARTTLS", "REQUIRETLS")


async def test_mail_that_must_stay_under_tls_goes_where_dane_proves_the_host(there, host, deliver):
    peer = await there({"STARTTLS": StartTls(host.context)}, KEEPS)
    assert cause(await deliver(zone(host.own), letter(terms=STRICT))) == "taken"
    assert "MAIL FROM:<a@here.test> REQUIRETLS" in peer.commands


async def test_and_where_a_policy_does(there, host, deliver):
    peer = await there({"STARTTLS": StartTls(host.context)}, KEEPS)
    trusting = {"ca_file": str(host.ca_file)}
    for mode in (Mode.ENFORCE, Mode.TESTING):
        resolver = zone(signed=False)
        assert (
            cause(await deliver(resolver, letter(terms=STRICT), find_policy=policy(mode), **trusting))
            == "taken"
        )
    assert len(peer.messages) == 2


async def test_a_certificate_alone_does_not_do(there, host, deliver):
    """Nobody vouches for the host's being an exchanger of the domain."""
    peer = await there({"STARTTLS": StartTls(host.context)}, KEEPS)
    result = await deliver(zone(signed=False), letter(terms=STRICT), ca_file=str(host.ca_file))
    assert str(result.reply).startswith("550 5.7.10 ")
    assert not peer.messages


@pytest.mark.parametrize(
    ("extensions", "status"), [((), "5.7.10"), (("STARTTLS",), "5.7.30"), (("REQUIRETLS",), "5.7.10")]
)
async def test_the_two_statuses(there, host, deliver, extensions, status):
    peer = await there({"STARTTLS": StartTls(host.context)}, extensions)
    result = await deliver(zone(host.own), letter(terms=STRICT))
    assert (result.reply.code, result.reply.status) == (550, status)
    assert not peer.messages


async def test_a_host_that_is_busy_is_tried_again(there, host, deliver):
    await there({"STARTTLS": "454 4.7.0 Not now"}, KEEPS)
    assert (await deliver(zone(host.own), letter(terms=STRICT))).reply.temporary


@pytest.mark.parametrize("trouble", ["certificate", "handshake", "refused"])
async def test_what_may_be_mended_has_some_hours(there, host, deliver, trouble):
    """A sender hears of a broken certificate, but not because it was renewed ten minutes too late."""
    without = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # it can't shake hands
    script = {
        "certificate": StartTls(host.context), "handshake": StartTls(without), "refused": "554 5.3.0 No",
    }[trouble]  # fmt: skip
    peer = await there({"STARTTLS": script}, KEEPS)
    result = await deliver(zone(WRONG), letter(terms=STRICT))
    assert str(result.reply).startswith("550 5.7.10 ")
    fates = [settle(result, past(attempts), RetrySettings(), 60.0).state for attempts in (0, 4, 5)]
    assert fates == [State.QUEUED, State.QUEUED, State.FAILED]
    assert not peer.messages


def past(attempts):
    return History(attempts, 0.0, delay_notified=False, sender="a@here.test", notify=Notify.UNSAID)


async def test_a_report_is_rather_sent_without_the_promise_than_lost(there, host, deliver):
    peer = await there({"STARTTLS": StartTls(host.context)}, ("STARTTLS",))
    assert cause(await deliver(zone(host.own), letter(sender="", terms=STRICT))) == "taken"
    assert peer.visits[-1].encrypted
    assert "MAIL FROM:<>" in peer.commands


# --- TLS-Required: No

CARELESS = b"TLS-Required: No\r\nSubject: your certificate is broken\r\n\r\nx\r\n"


async def test_who_does_not_care_gets_through_to_a_broken_host(there, host, deliver, courier_for):
    peer = await there({"STARTTLS": StartTls(host.context)})
    for resolver, find_policy in (
        (zone(WRONG), None),
        (zone(), policy()),
        (zone(), policy(Mode.ENFORCE, "x.test")),
    ):
        assert cause(await deliver(resolver, letter(body=CARELESS), find_policy=find_policy)) == "taken"
    assert len(peer.messages) == 3
    resolver = zone(WRONG)
    courier = courier_for(
        "mx:there.test", resolver=resolver, protection=Protection(resolver.lookup), patience=HASTY
    )
    assert cause((await courier.deliver(letter(body=CARELESS)))[0]) == "taken"
    assert cause((await courier.deliver(letter()))[0]) == "transport.dane_mismatch", "not on his session"


async def test_but_not_against_the_operator_nor_with_requiretls(there, host, deliver):
    peer = await there({"STARTTLS": StartTls(host.context)})
    careless = letter(body=CARELESS)
    assert cause(await deliver(zone(), careless, level=Tls.REQUIRED)) == "delivery.tls_failed"
    assert cause(await deliver(zone(), careless, level=Tls.DANE)) == "transport.no_proof"
    assert (await deliver(zone(WRONG), letter(body=CARELESS, terms=STRICT))).reply.permanent
    assert not peer.messages


# --- the best that a domain had


@pytest.fixture
async def memory(tmp_path):
    made = Memory(tmp_path)
    yield made
    await made.close()


@pytest.fixture
def alarms(monkeypatch):
    """The problems that the operator hears of."""
    heard = []
    monkeypatch.setattr("pillarbox.observe.ALARM.note", lambda **facts: heard.append(facts))
    return heard


async def test_the_operator_hears_when_a_domain_falls_back(there, host, deliver, memory, alarms):
    resolver = zone(signed=False)
    await there({"STARTTLS": StartTls(host.context)})
    await deliver(resolver, watch=TlsWatch(memory))
    assert not alarms
    stripped = await there(extensions=())
    watch = TlsWatch(memory)  # of another worker
    for _ in range(2):
        assert cause(await deliver(resolver, watch=watch)) == "taken"
    assert len(stripped.messages) == 2
    (alarm,) = alarms
    assert alarm["cause"] == "transport.downgraded"
    assert "mx.there.test[127.0.0.2]" in alarm["problem"]
    assert "for there.test in clear, before under TLS" in alarm["problem"]


async def test_what_the_operator_has_forgotten_no_longer_counts(there, host, deliver, memory, alarms):
    """At once, in a worker that remembered it too."""
    resolver, watch = zone(signed=False), TlsWatch(memory, downgrade="defer")
    await there({"STARTTLS": StartTls(host.context)})
    await deliver(resolver, watch=watch)
    await there(extensions=())
    assert cause(await deliver(resolver, watch=watch)) == "transport.downgraded"
    (found,) = await memory.ask(known)
    assert (found.domain, found.best, found.worse) == ("there.test", Level.ENCRYPTED, Level.CLEAR)
    assert await memory.ask(lambda notes: forget(notes, "there.test"))
    assert cause(await deliver(resolver, watch=watch)) == "taken"
    assert len(alarms) == 1


async def test_mail_waits_if_the_operator_wants_that(there, host, deliver, memory, alarms):
    await there({"STARTTLS": StartTls(host.context)})
    assert cause(await deliver(zone(host.own), watch=TlsWatch(memory, downgrade="defer"))) == "taken"
    result = await deliver(zone(), watch=TlsWatch(memory, downgrade="defer"))
    assert cause(result) == "transport.downgraded"
    assert result.reply.status == "4.7.5"
    assert alarms


async def test_nothing_is_remembered_if_that_is_off(there, host, deliver, memory, alarms):
    await there({"STARTTLS": StartTls(host.context)})
    await deliver(zone(host.own), watch=TlsWatch(memory, downgrade="off"))
    assert cause(await deliver(zone(), watch=TlsWatch(memory, downgrade="defer"))) == "taken"
    assert not alarms
