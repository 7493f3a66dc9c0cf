"""Accounts and mailboxes in a real OpenLDAP: logins as the entry, senders, mailboxes, TLS, and what happens when it is gone."""

import asyncio
import base64
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import msgspec
import pytest

from pillarbox.config import parse
from pillarbox.mail.catalogue import auth
from pillarbox.mail.units import Seconds
from pillarbox.net.ldap import LdapDirectory
from pillarbox.policy.account_ldap import LdapAccounts
from pillarbox.policy.accounts import Accounts, AuthSettings, LdapSettings, Peer
from pillarbox.policy.asked_names import AskedNames
from pillarbox.policy.domains import DomainSettings
from pillarbox.service import Service
from pillarbox.smtp.events import Login

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("ldap")]
PEER = Peer("192.0.2.1")
BASE = "dc=example,dc=org"
CONF = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {folder}/pid
TLSCertificateFile {folder}/server.pem
TLSCertificateKeyFile {folder}/server.key
database mdb
suffix "dc=example,dc=org"
rootdn "cn=root,dc=example,dc=org"
rootpw rooted
directory {folder}/db
access to attrs=userPassword by anonymous auth by * none
access to * by users read by anonymous auth by * none
"""
LDIF = """dn: dc=example,dc=org
objectClass: domain
dc: example

dn: cn=searcher,dc=example,dc=org
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: searcher
userPassword: looking

dn: uid=ann,dc=example,dc=org
objectClass: inetOrgPerson
uid: ann
cn: Ann
sn: Example
mail: ann@example.org
mail: Ann.Other@example.org
userPassword: wonderland

dn: uid=sales,dc=example,dc=org
objectClass: inetOrgPerson
uid: sales
cn: Sales
sn: Example
mail: sales@example.org
labeledURI: ann
labeledURI: jo@elsewhere.example

dn: uid=one,dc=example,dc=org
objectClass: inetOrgPerson
uid: one
cn: One
sn: Example
mail: twice@example.org
userPassword: same

dn: uid=two,dc=example,dc=org
objectClass: inetOrgPerson
uid: two
cn: Two
sn: Example
mail: twice@example.org
userPassword: same
"""


class Slapd:
    """A server of its own, with its database and its port."""

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        self.tls_port = free_port()
        self._process = None

    async def start(self):
        urls = f"ldap://127.0.0.1:{self.port} ldaps://127.0.0.1:{self.tls_port}"
        command = ["/usr/sbin/slapd", "-d", "0", "-f", f"{self.folder}/slapd.conf", "-h", urls]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        async with asyncio.timeout(20):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    assert self._process.poll() is None, "slapd did not start"
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return

    def freeze(self):
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self._process.send_signal(signal.SIGCONT)

    def stop(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def prepared(certificates):
    if not Path("/usr/sbin/slapd").exists():
        pytest.skip("slapd is not installed")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "db").mkdir()
        (folder / "slapd.conf").write_text(CONF.format(folder=folder))
        issued = certificates.issuer.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(str(folder / "server.pem"))
        issued.private_key_pem.write_to_path(str(folder / "server.key"))
        (folder / "secret").write_text("looking\n")
        subprocess.run(
            ["/usr/sbin/slapadd", "-q", "-f", folder / "slapd.conf"],
            input=LDIF.encode(),
            check=True,
            timeout=60,
        )
        yield folder


@pytest.fixture
async def slapd(prepared):
    server = Slapd(prepared)
    await server.start()
    yield server
    server.stop()


@pytest.fixture
def settings(slapd):
    return LdapSettings(
        url=f"ldap://127.0.0.1:{slapd.port}",
        start_tls=False,
        bind_dn=f"cn=searcher,{BASE}",
        password_file=str(slapd.folder / "secret"),
        base=BASE,
        account_filter="(&(objectClass=inetOrgPerson)(|(mail={address})(uid={address})))",
        mailbox_filter="(mail={address})",
        senders_attribute="mail",
        forward_attribute="labeledURI",
        limit_s=Seconds(2),
    )


@pytest.fixture
async def open_accounts():
    opened = []

    def make(settings):
        made = Accounts([LdapAccounts(settings, LdapDirectory(settings))], AuthSettings(), key=b"k")
        opened.append(made)
        return made

    yield make
    for accounts in opened:
        await accounts.close()


def login(accounts, user, password):
    return accounts.login(Login("PLAIN", "", user, password), PEER)


async def test_the_server_checks_the_password_of_the_entry_that_is_found(settings, open_accounts):
    accounts = open_accounts(settings)
    assert not {"SCRAM-SHA-256"} & set(accounts.mechanisms())
    found = await login(accounts, "Ann@example.org", "wonderland")
    assert (found.name, found.senders) == ("ann@example.org", ("ann@example.org", "ann.other@example.org"))
    assert (await login(accounts, "ann", "wonderland")).name == "ann"
    for user, password in (
        ("ann@example.org", "x"),
        ("ann@example.org", ""),  # would be granted as a login of nobody (RFC 4513 5.1.2)
        ("eve@example.org", "wonderland"),
        ("*", "wonderland"),
        ("ann@example.org)(uid=*", "wonderland"),
        ("*)(uid=*))(|(uid=*", "wonderland"),
        ("ann\\2a", "wonderland"),
        ("sales@example.org", "x"),  # has no password
        ("twice@example.org", "same"),  # nobody can say who is meant
    ):
        assert (await login(accounts, user, password)).cause is auth.BAD_CREDENTIALS, user


@pytest.mark.parametrize("kind", ["starttls", "ldaps"])
async def test_connections_are_encrypted_and_the_server_has_to_be_the_right_one(
    settings, slapd, open_accounts, certificates, kind
):
    url = f"ldap://localhost:{slapd.port}" if kind == "starttls" else f"ldaps://localhost:{slapd.tls_port}"
    secure = msgspec.structs.replace(settings, url=url, start_tls=True)
    stranger = open_accounts(secure)  # the system trusts nobody who vouches for it
    assert (await login(stranger, "ann", "wonderland")).cause is auth.BACKEND_DOWN
    trusting = open_accounts(msgspec.structs.replace(secure, ca_file=certificates.authority))
    assert (await login(trusting, "ann", "wonderland")).name == "ann"


async def test_E454_2_a_directory_that_is_gone_or_silent_says_nothing_about_the_password(
    settings, slapd, open_accounts, noted
):
    accounts = open_accounts(settings)
    assert (await login(accounts, "ann", "wonderland")).name == "ann"
    slapd.stop()
    for password in "wonderland", "x":
        assert (await login(accounts, "ann", password)).cause is auth.BACKEND_DOWN
    await slapd.start()
    assert (await login(accounts, "ann", "wonderland")).name == "ann"
    slapd.freeze()
    impatient = open_accounts(msgspec.structs.replace(settings, limit_s=Seconds(0.2)))
    assert (await login(impatient, "ann", "wonderland")).cause is auth.BACKEND_DOWN
    slapd.thaw()
    assert {name for name, _ in noted} == {"accounts.down"}


async def test_a_searcher_who_is_not_let_in_is_trouble_and_no_answer(
    settings, slapd, open_accounts, tmp_path, noted
):
    (tmp_path / "secret").write_text("wrong")
    accounts = open_accounts(msgspec.structs.replace(settings, password_file=str(tmp_path / "secret")))
    assert (await login(accounts, "ann", "wonderland")).cause is auth.BACKEND_DOWN
    assert "wrong" not in str(noted)


async def test_few_connections_serve_many(settings, slapd, open_accounts):
    accounts = open_accounts(settings)
    found = await asyncio.gather(*(login(accounts, "ann", "wonderland") for _ in range(30)))
    assert {one.name for one in found} == {"ann"}
    source = accounts._sources[0]._server
    assert len(source._searching._idle) <= 4
    assert len(source._checking._idle) <= 4


async def test_a_server_by_its_configuration(settings, dial, tmp_path):
    text = f"""
hostname = "mx.example.org"
data = "{tmp_path}"
[[listen]]
address = "127.0.0.1:0"
role = "submission"
login_in_clear = true
[ldap]
url = "{settings.url}"
start_tls = false
bind_dn = "{settings.bind_dn}"
password_file = "{settings.password_file}"
base = "{settings.base}"
mailbox_filter = "(mail={{address}})"
senders_attribute = "mail"
[auth]
require_tls = false
[domain."example.org"]
deliver = "hold"
users_from = ["ldap"]
"""
    service = Service(parse(text, "pillarbox.toml"))
    await service.start()
    caller = await dial(service.addresses[0][1])
    await caller.reply()
    assert b"AUTH PLAIN LOGIN" in await caller.ask(b"EHLO client.example")
    plain = base64.b64encode(b"\0ann@example.org\0wonderland")
    assert (await caller.ask(b"AUTH PLAIN " + plain))[:3] == b"235"
    assert (await caller.ask(b"MAIL FROM:<eve@example.org>"))[:9] == b"553 5.7.1"
    await caller.ask(b"MAIL FROM:<ann.other@example.org>")
    assert await rcpt(caller, b"eve@example.org", b"ann@example.org") == [b"550 5.1.1", b"250 2.1.5"]
    await caller.close()
    await service.stop()


@pytest.fixture
async def office(settings, open_office):
    server = LdapDirectory(settings)
    asked = AskedNames("ldap", LdapAccounts(settings, server).mailbox)
    domain = DomainSettings(deliver="hold", users_from=("ldap",), aliases={"info": "sales"})
    yield await open_office(domains={"example.org": domain}, asked={"ldap": asked})
    await server.close()


async def rcpt(caller, *recipients):
    return [(await caller.ask(b"RCPT TO:<%s>" % one))[:9] for one in recipients]


@pytest.fixture
async def caller(office, dial):
    found = await dial(office.port)
    await found.reply()
    await found.ask(b"EHLO client.example")
    await found.ask(b"MAIL FROM:<a@sender.example>")
    return found


async def test_mailboxes_in_the_directory(office, caller, refuses_strangers_at_the_door):
    await refuses_strangers_at_the_door(office, b"ann@example.org", b"eve@example.org", b"a*n@example.org")
    assert await rcpt(caller, b"twice@example.org") == [b"250 2.1.5"]  # whoever it is has a mailbox
    await caller.ask(b"RSET")
    await caller.ask(b"MAIL FROM:<a@sender.example>")
    names = (b"Ann.Other+tag@example.org", b"info@example.org", b"postmaster@example.org")
    assert await rcpt(caller, *names) == [b"250 2.1.5"] * 3
    await caller.ask(b"DATA")
    await caller.ask(b"Subject: x\r\n\r\nx\r\n.")
    taken = {one.address for one in office.queued[-1].envelope.recipients}
    expected = {
        "Ann.Other+tag@example.org",
        "ann@example.org",
        "jo@elsewhere.example",
        "postmaster@example.org",
    }
    assert taken == expected


async def test_E451_2_while_the_directory_is_gone_names_are_put_off(slapd, caller):
    slapd.stop()
    names = (b"ann@example.org", b"eve@example.org", b"postmaster@example.org")
    assert await rcpt(caller, *names) == [b"451 4.4.3", b"451 4.4.3", b"250 2.1.5"]
    await slapd.start()
    async with asyncio.timeout(20):
        while await rcpt(caller, b"ann@example.org") != [b"250 2.1.5"]:
            await asyncio.sleep(0.05)
    assert await rcpt(caller, b"eve@example.org") == [b"550 5.1.1"]
