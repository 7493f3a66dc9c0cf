"""A real `pillarbox serve` on free loopback ports, beside the mail programs and name servers that it talks to.

Everything lies in folders that every user of this machine may enter, because those programs give up root's rights.
"""

from __future__ import annotations

import asyncio
import ctypes
import email
import email.policy
import fcntl
import json
import os
import pwd
import re
import shutil
import signal
import smtplib
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.dnssec
import dns.dnssecalgs
import dns.rdataset
import dns.zone
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ed25519

from pillarbox.control import trace
from pillarbox.queue.ledger import Ledger
from pillarbox.queue.spool import State, parse_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from email.message import EmailMessage

    from pillarbox.control import Step
    from pillarbox.queue.ledger import ListedMessage, ListedRecipient

SENDER = "ann@sender.test"  # a mailbox of the server, so that reports arrive
BODY = b"From: ann@sender.test\r\nSubject: across\r\n\r\nHello.\r\n"
LIMIT_S = 40.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for(condition: Callable[[], object], what: Callable[[], str] = lambda: "") -> None:
    """Wait for a condition without a loop; `what` tells of what went wrong."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, f"this never came about\n{what()}"
        time.sleep(0.02)


async def wait_until(condition: Callable[[], object], what: Callable[[], str] = lambda: "") -> None:
    """The same on a loop, for tests whose peers run on it."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, f"this never came about\n{what()}"
        await asyncio.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Program:
    """One program that was started, and what it wrote."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def last_words(self) -> str:
        """What it wrote last, for the report of a test that failed."""
        return self.said[-3000:]

    def ready(self, condition: Callable[[], object]) -> None:
        """Wait until it is; a program that ends before has failed."""
        wait_for(lambda: not self.runs or condition(), self.last_words)
        assert self.runs, self.last_words()

    def stop(self) -> None:
        """End it as its operator would, or for good if it does not hear."""
        if self.runs:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def events_in(program: Program, name: str) -> list[dict[str, Any]]:
    """The lines about one kind of event in the log of a server, if they are complete."""
    lines = program.said.splitlines(keepends=True)
    found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
    return [line for line in found if line["event"] == name]


def hand_in(
    port: int,
    recipients: Sequence[str | tuple[str, Sequence[str]]],
    sender: str,
    message: bytes,
    options: Sequence[str],
) -> str:
    """Give a message to a server, some recipients with parameters of their own, and return its last reply."""
    with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=LIMIT_S) as client:
        client.ehlo()
        replies = [client.mail(sender, options)]
        for recipient in recipients:
            address, parameters = (recipient, ()) if isinstance(recipient, str) else recipient
            replies.append(client.rcpt(address, parameters))
        replies.append(client.data(message))
    assert {code for code, _ in replies} == {250}, replies
    return replies[-1][1].decode()


class Serving:
    """One `pillarbox serve`, and what its operator and its users can see."""

    def __init__(self, folder: Path, program: Program, ports: Sequence[int]) -> None:
        self.folder = folder
        self.program = program
        self.ports = ports

    def events(self, name: str) -> list[dict[str, object]]:
        """The lines of the log about one kind of event."""
        return events_in(self.program, name)

    def send(
        self,
        *recipients: str | tuple[str, Sequence[str]],
        sender: str = SENDER,
        message: bytes = BODY,
        options: Sequence[str] = (),
    ) -> str:
        """Put a message into its queue, and return the queue id."""
        reply = hand_in(self.ports[0], recipients, sender, message, options)
        return re.search(r"Queued as (\w+)", reply)[1]

    def command(self, *arguments: str) -> None:
        """Do what an operator does: `command("queue", "retry", queue_id)`."""
        command = [sys.executable, "-m", "pillarbox", *arguments, "--data", str(self.folder / "data")]
        subprocess.run(command, check=True, capture_output=True, timeout=LIMIT_S)

    def look(self, queue_id: str) -> ListedMessage:
        with Ledger(self.folder / "data") as ledger:
            return ledger.show(parse_id(queue_id))

    async def fates(self, queue_id: str) -> list[ListedRecipient]:
        """What became of each recipient, once each was attempted at least once."""

        def attempted() -> bool:
            return all(
                one.state is not State.QUEUED or one.attempts for one in self.look(queue_id).recipients
            )

        await wait_until(attempted, self.program.last_words)
        return sorted(self.look(queue_id).recipients, key=lambda one: one.number)

    async def fate(self, queue_id: str) -> ListedRecipient:
        """What became of the only recipient."""
        (one,) = await self.fates(queue_id)
        return one

    def steps(self, queue_id: str) -> tuple[Step, ...]:
        """What `pillarbox trace` tells."""
        with Ledger(self.folder / "data") as ledger:
            return trace(ledger, queue_id).steps

    def messages(self) -> list[ListedMessage]:
        """All that the store knows, finished or not, the oldest first."""
        with Ledger(self.folder / "data") as ledger:
            found = {one.id: one for state in State for one in ledger.list_messages(100_000, states=[state])}
        return [found[number] for number in sorted(found)]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for anything."""
        await wait_until(condition, self.program.last_words)

    def peek(self, user: str) -> list[EmailMessage]:
        """The messages that are in a mailbox of the server now."""
        return read_maildir(self.folder / "mail" / user)

    async def mail(self, user: str, count: int = 1) -> list[EmailMessage]:
        """The messages in a mailbox of the server, once there are so many."""
        await self.until(lambda: len(self.peek(user)) >= count)
        return self.peek(user)

    async def report(self, user: str = "ann") -> EmailMessage:
        """The only message in a mailbox, which is a delivery report."""
        (found,) = await self.mail(user)
        assert found.get_content_type() == "multipart/report", found
        return found


def read_maildir(folder: Path) -> list[EmailMessage]:
    """The messages in a Maildir, in the order of arrival."""
    new = folder / "new"
    files = sorted(
        new.iterdir() if new.is_dir() else (), key=lambda file: (file.stat().st_mtime_ns, file.name)
    )
    return [email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in files]


@pytest.fixture(scope="session")
def maildir() -> Callable[[Path], list[EmailMessage]]:
    """The messages in a Maildir: `maildir(folder)`."""
    return read_maildir


@pytest.fixture(scope="session")
def unused_port() -> Callable[[], int]:
    """Find a free port for a program that can't choose one itself."""
    return free_port


@dataclass(frozen=True, slots=True)
class Pem:
    """Files with a certificate for this machine, its key, and the authority that both ends trust."""

    chain: str
    key: str
    authority: str


@pytest.fixture(scope="session")
def issue() -> Iterator[Callable[..., Pem]]:
    """Make a certificate for some names, of the one authority that the tests trust or, with `stranger`, of another."""
    authority = trustme.CA()
    with tempfile.TemporaryDirectory(prefix="pillarbox-pem-") as name:
        Path(name).chmod(0o755)

        def make(*names: str, stranger: bool = False) -> Pem:
            signer = trustme.CA() if stranger else authority
            issued = signer.issue_cert(*names)
            folder = Path(tempfile.mkdtemp(dir=name))
            folder.chmod(0o755)
            chain, key, ca = (folder / file for file in ("chain.pem", "key.pem", "ca.pem"))
            chain.write_bytes(b"".join(one.bytes() for one in issued.cert_chain_pems))
            issued.private_key_pem.write_to_path(key)
            signer.cert_pem.write_to_path(ca)
            return Pem(str(chain), str(key), str(ca))

        yield make


@pytest.fixture(scope="session")
def pem(issue: Callable[..., Pem]) -> Pem:
    """A certificate that fits every server here."""
    return issue("localhost", "127.0.0.1", "mx.example.org")


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Callable[[], Path]]:
    """Make folders that every user of this machine may enter."""
    made: list[Path] = []

    def make() -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="pillarbox-")))
        made[-1].chmod(0o755)
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[..., Program]]:
    """Start programs: `launch(log, "name", "argument", ...)`; each is stopped at the end of the module.

    Each has a session of its own, so that one which signals its group, as Postfix does, hits nobody else.
    """
    started: list[Program] = []

    def start(log: Path, *command: str | Path, **environment: str) -> Program:
        with log.open("ab") as output:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | environment,
            )
        started.append(Program(process, log))
        return started[-1]

    yield start
    for program in reversed(started):
        program.stop()


@pytest.fixture(scope="module")
def serve(
    launch: Callable[..., Program], open_folder: Callable[[], Path]
) -> Iterator[Callable[..., Serving]]:
    """Start a server: `serve(settings, listen=[...])`. A module fails if a server met a bug of its own.

    `settings` is TOML: single keys first, then tables; `{folder}` is the server's folder. `listen` has the lines of
    each listener; without an address it has a free port of loopback. The first one is for `Serving.send`. Mail for sender.test lies in the folder `mail`.
    """
    started: list[Program] = []

    def start(
        settings: str = "",
        listen: Sequence[str] = ('role = "relay"',),
        **environment: str,
    ) -> Serving:
        folder = open_folder()
        (folder / "mail").mkdir()
        free = 'address = "127.0.0.1:0"\n'
        listeners = "".join(f"[[listen]]\n{'' if 'address' in one else free}{one}\n" for one in listen)
        (folder / "pillarbox.toml").write_text(
            f'hostname = "pillarbox.test"\ndata = "{folder}/data"\ndrain = "1s"\nlimits.min_free = 0\n'
            f"{settings.replace('{folder}', str(folder))}\n{listeners}"
            f'[domain."sender.test"]\ndeliver = "maildir:{folder}/mail/{{user}}"\n'
        )
        command = (sys.executable, "-m", "pillarbox", "serve", "--config", folder / "pillarbox.toml")
        program = launch(folder / "log", *command, **environment)
        started.append(program)
        program.ready(lambda: events_in(program, "server.started"))
        (event,) = events_in(program, "server.started")
        ports = [int(address.rpartition(":")[2]) for address in event["listeners"].split(", ")]
        return Serving(folder, program, ports)

    yield start
    assert not [incident for program in started for incident in events_in(program, "incident")]


POSTFIX = shutil.which("postfix", path="/usr/sbin:/usr/bin")
_MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = postfix.test
mydestination =
local_recipient_maps =
alias_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
virtual_mailbox_domains = {domains}
virtual_mailbox_maps = texthash:{folder}/mailboxes
virtual_mailbox_base = {folder}/mail
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
smtpd_tls_cert_file = {pem.chain}
smtpd_tls_key_file = {pem.key}
smtpd_tls_received_header = yes
smtp_tls_CAfile = {pem.authority}
default_transport = error:5.4.4 this server knows nobody else
"""
_MASTER = """
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
lmtp unix - - n - - lmtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
_USERS = [*(f"user{number}" for number in range(60)), "jörg"]  # for one test each


class Postfix:
    """A whole Postfix of our own, with mailboxes in all its domains."""

    def __init__(self, folder: Path, program: Program, ports: dict[str, int]) -> None:
        self.folder = folder
        self.program = program
        self.ports = ports  # of its listeners, by the domain that each is for
        self._unused = iter(_USERS)

    def user(self) -> str:
        """Somebody whose mailbox is still empty."""
        return next(self._unused)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def send(
        self,
        *recipients: str | tuple[str, Sequence[str]],
        sender: str,
        message: bytes = BODY,
        options: Sequence[str] = (),
    ) -> None:
        """Put a message into its queue by its first listener."""
        hand_in(next(iter(self.ports.values())), recipients, sender, message, options)

    def peek(self, user: str) -> list[EmailMessage]:
        """What lies in a mailbox now."""
        return read_maildir(self.folder / "mail" / user)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for anything."""
        await wait_until(condition, lambda: self.log[-3000:])

    async def mail(self, user: str, count: int = 1) -> list[EmailMessage]:
        """The messages in a mailbox, once there are so many."""
        await self.until(lambda: len(self.peek(user)) >= count)
        return self.peek(user)

    def queue(self) -> list[dict[str, Any]]:
        """What waits, as `postqueue -j` tells it."""
        return [json.loads(line) for line in self.run("postqueue", "-j").splitlines()]

    def run(self, command: str, *arguments: str) -> str:
        """One of its commands."""
        done = subprocess.run(
            [f"/usr/sbin/{command}", "-c", self.folder / "etc", *arguments],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=True,
        )
        return done.stdout


@pytest.fixture(scope="module")
def postfix(
    launch: Callable[..., Program], open_folder: Callable[[], Path], pem: Pem
) -> Callable[..., Postfix]:
    """Start Postfix: `postfix({"plain.test": (25025, ""), ...}, main="...", master="...")`.

    Each domain has a listener of its own, with a port and settings. `main` and `master` are lines for the two files.
    """
    if POSTFIX is None:
        pytest.skip("postfix is not installed")
    if os.geteuid() != 0:
        pytest.skip("only root can start postfix")

    def start(listeners: dict[str, tuple[int, str]], *, main: str = "", master: str = "") -> Postfix:
        folder, nobody = open_folder(), pwd.getpwnam("nobody")
        for name in ("etc", "queue", "data", "mail"):
            (folder / name).mkdir()
        os.chown(folder / "data", pwd.getpwnam("postfix").pw_uid, -1)
        os.chown(folder / "mail", nobody.pw_uid, -1)
        mailboxes = (f"{user}@{domain} {user}/\n" for domain in listeners for user in _USERS)
        (folder / "mailboxes").write_text("".join(mailboxes))
        values = {"domains": ", ".join(listeners), "uid": nobody.pw_uid, "gid": nobody.pw_gid}
        (folder / "etc/main.cf").write_text(_MAIN.format(folder=folder, pem=pem, **values) + main)
        services = "".join(
            f"127.0.0.1:{port} inet n - n - - smtpd\n"
            + "".join(f"  -o {{ {setting} }}\n" for setting in settings.splitlines() if setting)
            for port, settings in listeners.values()
        )
        (folder / "etc/master.cf").write_text(services + _MASTER + master)
        checked = subprocess.run(
            [POSTFIX, "-c", folder / "etc", "check"], capture_output=True, check=False, timeout=LIMIT_S
        )
        assert checked.returncode == 0, checked.stderr.decode()
        daemons = subprocess.run(
            ["/usr/sbin/postconf", "-c", folder / "etc", "-h", "daemon_directory"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        program = launch(folder / "output", f"{daemons}/master", "-c", folder / "etc", "-s")
        log = folder / "log"
        program.ready(lambda: log.exists() and "daemon started" in log.read_text())
        return Postfix(folder, program, {domain: port for domain, (port, _) in listeners.items()})

    return start


_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


@pytest.fixture(scope="module")
def own_network() -> Iterator[None]:
    """A network of our own for this thread and the programs that it starts: loopback alone, and each port free."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as before:
        if libc.unshare(_CLONE_NEWNET):
            pytest.skip(f"no network namespace can be made: {os.strerror(ctypes.get_errno())}")
        try:
            with socket.socket() as sock:
                fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
            yield
        finally:
            assert libc.setns(before.fileno(), _CLONE_NEWNET) == 0


VALIDATING = """
server:
  do-daemonize: no
  use-syslog: no
  logfile: ""
  verbosity: 1
  chroot: ""
  username: ""
  pidfile: ""
  directory: "{folder}"
  {place}
  module-config: "validator iterator"
  trust-anchor-file: "anchor"
  do-not-query-localhost: no
  local-zone: "test." nodefault
remote-control:
  control-enable: no
"""
ZONE_HEAD = """\
$ORIGIN {name}
$TTL 300
@ SOA ns admin 1 7200 900 1209600 60
@ NS ns
ns A 127.0.0.1
"""
AUTHORITATIVE = """
auth-zone:
  name: "{name}"
  zonefile: "{name}zone"
  for-downstream: no
  for-upstream: yes
  fallback-enabled: no
"""


def sign(text: str) -> tuple[str, str]:
    """The zone signed.test signed with a new key, and the key; the TLSA record of mx3 is forged afterwards."""
    zone = dns.zone.from_text(text, relativize=False)
    private = ed25519.Ed25519PrivateKey.generate()
    public = dns.dnssec.make_dnskey(private.public_key(), dns.dnssecalgs.Algorithm.ED25519, flags=257)
    dns.dnssec.sign_zone(zone, keys=[(private, public)], lifetime=86400, dnskey_ttl=300)
    forged = dns.rdataset.from_text("IN", "TLSA", 300, f"3 1 1 {'00' * 32}")
    zone.replace_rdataset("_25._tcp.mx3.signed.test.", forged)
    return zone.to_text(relativize=False), f"signed.test. 300 IN DNSKEY {public.to_text()}\n"


@pytest.fixture(scope="module")
def serve_zones(
    launch: Callable[..., Program], open_folder: Callable[[], Path]
) -> Callable[[str, str, str], None]:
    """Start a validating name server with the zones signed.test, which is signed here, and plain.test.

    What is given is what stands in them besides their own SOA and NS.
    """

    def start(signed: str, plain: str, place: str) -> None:
        folder = open_folder()
        zone, anchor = sign(ZONE_HEAD.format(name="signed.test.") + signed)
        (folder / "signed.test.zone").write_text(zone)
        (folder / "plain.test.zone").write_text(ZONE_HEAD.format(name="plain.test.") + plain)
        (folder / "anchor").write_text(anchor)
        zones = "".join(AUTHORITATIVE.format(name=name) for name in ("signed.test.", "plain.test."))
        (folder / "unbound.conf").write_text(VALIDATING.format(folder=folder, place=place) + zones)
        unbound = shutil.which("unbound", path="/usr/sbin:/usr/bin")
        program = launch(folder / "log", unbound, "-d", "-c", folder / "unbound.conf")
        program.ready(lambda: "start of service" in program.said)

    return start
