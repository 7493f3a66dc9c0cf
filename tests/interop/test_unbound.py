"""Mail by MX, end to end: unbound answers for zones made here, hosts listen on port 25 of a network of our own.

What is looked at is who got the mail, or why nobody did.
"""

import contextlib
import shutil
import socket

import pytest

from pillarbox.queue.spool import State
from pillarbox.testing import Drop, ScriptedPeer

UNBOUND = shutil.which("unbound", path="/usr/sbin:/usr/bin")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.xdist_group("unbound"),
    pytest.mark.skipif(UNBOUND is None, reason="unbound is not installed"),
]

CONFIGURATION = """
server:
  do-daemonize: no
  use-syslog: no
  logfile: ""
  verbosity: 1
  chroot: ""
  username: ""
  pidfile: ""
  directory: "{folder}"
  interface: {address}
  module-config: "iterator"
  do-not-query-localhost: no
  local-zone: "test." nodefault
  local-zone: "refused.example." refuse
  local-zone: "silent.example." deny
  local-zone: "nothing.example." always_nodata
  local-zone: "local.example." static
  local-data: "local.example. MX 10 mx.local.example."
  local-data: "mx.local.example. A 127.0.1.1"
remote-control:
  control-enable: no
forward-zone:
  name: "dead.example."
  forward-addr: 127.0.0.1@9
auth-zone:
  name: "test."
  zonefile: "zone"
  for-downstream: no
  for-upstream: yes
  fallback-enabled: no
"""
# aN is a host at 127.0.1.N if a test opens one there; nobody ever listens at 127.0.2.N; n has no address, gone is not.
# To ask for host.example.org fails, because this network has no way to the root of DNS.
ZONE = """
$ORIGIN test.
$TTL 300
@ SOA ns admin 1 7200 900 1209600 60
@ NS ns
ns A 127.0.0.1
a1 A 127.0.1.1
a2 A 127.0.1.2
a3 A 127.0.1.3
d1 A 127.0.2.1
d2 A 127.0.2.2
n TXT "no address"
six AAAA ::1
both A 127.0.1.1
both AAAA ::1
partly A 127.0.2.3
partly A 127.0.2.4
partly A 127.0.1.1
alias CNAME a1
pillarbox A 127.0.0.1
ourselves A 127.0.0.1

one MX 10 a1
first MX 30 a3
first MX 10 a1
first MX 20 a2
second MX 10 d1
second MX 20 a2
second MX 30 a3
third MX 10 gone
third MX 20 n
third MX 30 a3
fourth MX 10 host.example.org.
fourth MX 20 a2
families MX 10 both
ipv6 MX 10 six
partial MX 10 partly
aliased MX 10 alias
cname CNAME one
cname2 CNAME cname
plain A 127.0.1.1
plain6 AAAA ::1
cname-plain CNAME a1
*.wild MX 10 a1
odd MX 0 .
odd MX 10 a1
xn--bcher-kva MX 10 a1
better MX 10 a1
better MX 20 pillarbox
better MX 30 a3
two MX 10 a1
two MX 20 a2

null MX 0 .
text TXT "no mail"
homeless MX 10 n
homeless MX 20 gone
us MX 10 pillarbox
us MX 20 a3
renamed MX 10 ourselves
dangling CNAME gone

loop CNAME loop2
loop2 CNAME loop
dead MX 10 d1
dead MX 20 d2
lost MX 10 host.example.org.
worse MX 10 d1
worse MX 20 pillarbox
worse MX 30 a3
"""
EQUAL = [f"equal{number}.test" for number in range(20)]
LONG = {"short.test": 7, "long.test": 60}  # so many dead hosts come before the one that works


def zone():
    equal = "".join(f"{domain}. MX 10 a1\n{domain}. MX 10 a2\n" for domain in EQUAL)
    long = "".join(
        f"{domain}. MX {number} {name}\n{name} A 127.0.{third}.{number + 1}\n"
        for third, (domain, count) in enumerate(LONG.items(), 3)
        for number in range(count)
        for name in [f"one-of-the-many-hosts-that-nobody-can-reach-{third}-{number}"]
    )
    last = "".join(f"{domain}. MX 1000 a1\n" for domain in LONG)
    return ZONE + equal + long + last


@pytest.fixture(scope="module")
def start_unbound(own_network, launch, open_folder):
    """Start a name server at an address."""

    def start(address):
        folder = open_folder()
        (folder / "zone").write_text(zone())
        (folder / "unbound.conf").write_text(CONFIGURATION.format(folder=folder, address=address))
        program = launch(folder / "log", UNBOUND, "-d", "-c", folder / "unbound.conf")
        program.ready(lambda: "start of service" in program.said)

    return start


SETTINGS = """
dns.nameservers = ["127.0.0.1"]
dns.timeout = "1s"
relay.dead = "10ms"
relay.families = ["ipv6", "ipv4"]
queue.idle = "0s"
queue.unreachable_after = 1000
suppression.enabled = false
"""


@pytest.fixture(scope="module")
def serving(start_unbound, serve):
    start_unbound("127.0.0.1")
    return serve(SETTINGS, ['role = "relay"', 'role = "mx"\naddress = "127.0.0.1:25"'])


A1, A2, A3, SIX = "127.0.1.1", "127.0.1.2", "127.0.1.3", "::1"


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind((SIX, 0))
        return True
    return False


@pytest.fixture
async def hosts(serving):
    """Open hosts on port 25: `peers = await hosts({"127.0.1.1": script, ...})`."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(scripts):
            if SIX in scripts and not has_ipv6():
                pytest.skip("this machine has no IPv6")
            return {
                address: await stack.enter_async_context(ScriptedPeer(script, host=address, port=25))
                for address, script in scripts.items()
            }

        yield start


@pytest.mark.parametrize(
    ("domain", "others", "host"),
    [
        ("one.test", (), A1),
        ("ONE.Test", (), A1),
        ("first.test", (A2, A3), A1),
        ("second.test", (A3,), A2),
        ("third.test", (), A3),
        ("fourth.test", (), A2),
        ("families.test", (A1,), SIX),
        ("families.test", (), A1),
        ("ipv6.test", (), SIX),
        ("partial.test", (), A1),
        ("aliased.test", (), A1),
        ("cname.test", (), A1),
        ("cname2.test", (), A1),
        ("plain.test", (), A1),
        ("plain6.test", (), SIX),
        ("cname-plain.test", (), A1),
        ("deep.er.wild.test", (), A1),
        ("odd.test", (), A1),
        ("bücher.test", (), A1),
        ("better.test", (A3,), A1),
        ("local.example", (), A1),
        ("short.test", (), A1),
        (f"[{A2}]", (A1,), A2),
        ("[IPv6:::1]", (A1,), SIX),
    ],
)
async def test_who_gets_the_mail(serving, hosts, domain, others, host):
    peers = await hosts(dict.fromkeys((host, *others)))
    address = f"user@{domain}"
    queue_id = serving.send(address, options=[] if domain.isascii() else ["SMTPUTF8"])
    fate = await serving.fate(queue_id)
    assert fate.state is State.DELIVERED, fate.result
    assert {name: len(peer.messages) for name, peer in peers.items()} == {**dict.fromkeys(others, 0), host: 1}
    assert f"[{host}]" in fate.result.host
    assert any(command.lower().startswith(f"rcpt to:<{address.lower()}>") for command in peers[host].commands)


async def test_hosts_of_equal_preference_share_the_mail(serving, hosts):
    peers = await hosts({A1: None, A2: None})
    for domain in EQUAL:
        assert (await serving.fate(serving.send(f"user@{domain}"))).state is State.DELIVERED
    assert len(peers[A1].messages) + len(peers[A2].messages) == len(EQUAL)
    assert peers[A1].messages
    assert peers[A2].messages


@pytest.mark.parametrize(
    ("domain", "cause", "status"),
    [
        ("gone.test", "delivery.no_domain", "5.1.2"),
        ("dangling.test", "delivery.no_domain", "5.1.2"),
        ("null.test", "delivery.null_mx", "5.1.10"),
        ("text.test", "delivery.no_route", "5.4.4"),
        ("nothing.example", "delivery.no_route", "5.4.4"),
        ("homeless.test", "delivery.no_route", "5.4.4"),
        ("us.test", "delivery.mx_is_us", "5.4.6"),
        ("renamed.test", "delivery.mx_is_us", "5.4.6"),
        ("[127.0.0.1]", "delivery.mx_is_us", "5.4.6"),
    ],
)
async def test_what_goes_back(serving, hosts, domain, cause, status):
    peers = await hosts({A1: None, A3: None})
    sender = domain.strip("[]")
    fate = await serving.fate(serving.send(f"user@{domain}", sender=f"{sender}@sender.test"))
    assert fate.state is State.FAILED, fate.result
    assert fate.result.reply.cause_id == cause
    assert not any(peer.visits for peer in peers.values())
    report = await serving.report(sender)
    (group,) = report.get_payload(1).get_payload()[1:]
    assert (group["Action"], group["Status"]) == ("failed", status)
    assert group["X-Pillarbox-Cause"] == cause
    assert group["Final-Recipient"] == f"rfc822; user@{domain}"


@pytest.mark.parametrize(
    ("domain", "cause", "words"),
    [
        ("loop.test", "delivery.dns_failed", "gave no usable answer"),
        ("refused.example", "delivery.dns_failed", "gave no usable answer"),
        ("silent.example", "delivery.dns_failed", "no answer in time"),
        ("dead.example", "delivery.dns_failed", "no answer in time"),
        ("somewhere.example.org", "delivery.dns_failed", "gave no usable answer"),
        ("lost.test", "delivery.dns_failed", "gave no usable answer"),
        ("dead.test", "delivery.connect_failed", "connection refused"),
        ("worse.test", "delivery.connect_failed", "connection refused"),
        ("long.test", "delivery.connect_failed", "connection refused"),
        ("[127.0.2.9]", "delivery.connect_failed", "connection refused"),
    ],
)
async def test_what_waits(serving, hosts, domain, cause, words):
    peers = await hosts({A1: None, A3: None})
    fate = await serving.fate(serving.send(f"user@{domain}"))
    assert fate.state is State.QUEUED, fate.result
    assert fate.result.reply.cause_id == cause
    assert words in fate.result.reply.text
    assert not any(peer.visits for peer in peers.values())


@pytest.mark.parametrize(
    ("script", "state", "goes_on"),
    [
        ({"connect": "421 4.3.2 Busy"}, State.DELIVERED, True),
        ({"connect": Drop()}, State.DELIVERED, True),
        ({"connect": "554 5.3.2 No mail here"}, State.DELIVERED, True),
        ({"MAIL": "451 4.3.0 Not now"}, State.DELIVERED, True),
        ({"RCPT": "450 4.2.1 Not now"}, State.QUEUED, False),
        ({"RCPT": "550 5.1.1 Unknown"}, State.FAILED, False),
        ({".": "451 4.3.0 Not now"}, State.QUEUED, False),
        ({".": "554 5.7.1 Not wanted"}, State.FAILED, False),
        ({".": Drop()}, State.QUEUED, False),
    ],
)
async def test_when_the_next_host_is_tried(serving, hosts, script, state, goes_on):
    peers = await hosts({A1: script, A2: None})
    fate = await serving.fate(serving.send("user@two.test"))
    assert fate.state is state, fate.result
    assert bool(peers[A2].messages) is goes_on


async def test_a_host_that_greets_with_our_own_name_is_this_server(serving, hosts):
    """An address that leads back here from outside looks like anybody's."""
    peers = await hosts({A1: {"connect": "220 pillarbox.test ESMTP Pillarbox"}, A2: None})
    fate = await serving.fate(serving.send("user@two.test"))
    assert fate.state is State.FAILED, fate.result
    assert fate.result.reply.cause_id == "delivery.loop_to_self"
    assert not any(command.startswith("MAIL") for peer in peers.values() for command in peer.commands)


async def test_mail_goes_out_when_dns_is_back(start_unbound, serve, hosts):
    peers = await hosts({A1: None})
    serving = serve(
        'dns.nameservers = ["127.0.0.9", "127.0.0.53"]\ndns.timeout = "1s"\ndns.failure_ttl = "0s"\n'
    )
    queue_id = serving.send("user@one.test")
    assert (await serving.fate(queue_id)).result.reply.cause_id == "delivery.dns_failed"
    start_unbound("127.0.0.53")
    serving.command("queue", "retry", queue_id)
    await serving.until(lambda: peers[A1].messages)
    await serving.until(lambda: serving.look(queue_id).recipients[0].state is State.DELIVERED)
