"""Delivery to Dovecot by LMTP: what lies in its mailboxes, and what becomes of those whom it refuses."""

import getpass
import grp
import os
import pwd
import shutil
from pathlib import Path

import pytest

from pillarbox.queue.spool import State

DOVECOT = shutil.which("dovecot", path="/usr/sbin:/usr/bin")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.xdist_group("dovecot"),
    pytest.mark.skipif(DOVECOT is None, reason="dovecot is not installed"),
    pytest.mark.skipif(
        not any(Path(folder, "dovecot/lmtp").exists() for folder in ("/usr/lib", "/usr/libexec")),
        reason="dovecot's LMTP server (dovecot-lmtpd) is not installed",
    ),
]

BODY = b"From: ann@sender.test\r\nSubject: across\r\n\r\nHello.\r\n"
CONFIGURATION = """
protocols = lmtp
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/errors
info_log_path = {folder}/info
ssl = yes
ssl_cert = <{pem.chain}
ssl_key = <{pem.key}
default_internal_user = {internal}
default_internal_group = {group}
default_login_user = {login}
first_valid_uid = 1
first_valid_gid = 1
mail_location = maildir:{folder}/mail/%n
recipient_delimiter = +
passdb {{
  driver = static
  args = password=unused
}}
userdb {{
  driver = passwd-file
  args = username_format=%n {folder}/users
}}
mail_plugins = quota
plugin {{
  quota = maildir:Mailbox
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {port}
  }}
  unix_listener {folder}/lmtp {{
    mode = 0666
  }}
}}
service anvil {{
  chroot =
}}
"""


MAILBOXES = [f"user{number}" for number in range(20)]  # for one test each
FULL = "userdb_quota_rule=*:bytes=1B"  # too little for any message
USERS = {
    **dict.fromkeys(MAILBOXES, ""),
    "full": FULL,
    "patient": f"{FULL} userdb_quota_full_tempfail=yes",
    "broken": "userdb_mail=maildir:/dev/null/mail",
}


class Dovecot:
    """A Dovecot that only takes mail."""

    def __init__(self, folder, port, read):
        self.folder = folder
        self.port = port
        self._read = read
        self._unused = iter(MAILBOXES)

    def user(self):
        """Somebody whose mailbox is still empty."""
        return next(self._unused)

    def mail(self, user):
        """What lies in a mailbox."""
        return self._read(self.folder / "mail" / user)

    @property
    def connections(self):
        """How many there were so far."""
        return (self.folder / "info").read_text().count(": Connect from ")


@pytest.fixture(scope="module")
def dovecot(launch, open_folder, pem, maildir, unused_port):
    folder, port = open_folder(), unused_port()
    (folder / "mail").mkdir()
    users = "".join(f"{name}::::::: {settings}\n" for name, settings in USERS.items())
    (folder / "users").write_text(users)
    if os.geteuid() == 0:
        names = ("dovecot", "dovecot", "dovenull")
        nobody = pwd.getpwnam("nobody")
        owner = f"mail_uid = {nobody.pw_uid}\nmail_gid = {nobody.pw_gid}\n"
        os.chown(folder / "mail", nobody.pw_uid, nobody.pw_gid)
    else:
        me = getpass.getuser()
        names, owner = (me, grp.getgrgid(os.getegid()).gr_name, me), ""
    internal, group, login = names
    text = CONFIGURATION.format(
        folder=folder, port=port, pem=pem, internal=internal, group=group, login=login
    )
    (folder / "dovecot.conf").write_text(text + owner)
    program = launch(folder / "output", DOVECOT, "-F", "-c", folder / "dovecot.conf")
    program.ready((folder / "lmtp").exists)
    return Dovecot(folder, port, maildir)


@pytest.fixture(scope="module")
def serving(serve, dovecot, pem):
    return serve(
        f"""
        [relay]
        ca_file = "{pem.authority}"
        [domain."tcp.test"]
        deliver = "lmtp://127.0.0.1:{dovecot.port}"
        [domain."tls.test"]
        deliver = "lmtp://127.0.0.1:{dovecot.port}?tls=required"
        [domain."unix.test"]
        deliver = "lmtp:unix:{dovecot.folder}/lmtp"
        """
    )


@pytest.mark.parametrize("domain", ["tcp.test", "tls.test", "unix.test"])
async def test_a_message_lies_in_the_mailbox(serving, dovecot, domain):
    user = dovecot.user()
    fate = await serving.fate(serving.send(f"{user}@{domain}"))
    assert fate.state is State.DELIVERED
    assert fate.result.reply.text.endswith(" Saved")
    (message,) = dovecot.mail(user)
    assert message["Subject"] == "across"
    assert message["Return-Path"] == "<ann@sender.test>"
    assert message["Delivered-To"] == f"{user}@{domain}"
    protocol = "LMTP" if domain == "unix.test" else "LMTPS"  # by TCP TLS is used if it is there
    assert f"with {protocol}\t" in message["Received"]


async def test_recipients_with_different_answers(serving, dovecot):
    good, tagged = dovecot.user(), dovecot.user()
    users = (good, "nobody", "full", f"{tagged}+tag", "patient", "broken")
    queue_id = serving.send(*(f"{user}@tcp.test" for user in users), sender="diff@sender.test")
    fates = await serving.fates(queue_id)
    assert [(one.state, one.result.reply.code, one.result.reply.status) for one in fates] == [
        (State.DELIVERED, 250, "2.0.0"),
        (State.FAILED, 550, "5.1.1"),
        (State.FAILED, 552, "5.2.2"),
        (State.DELIVERED, 250, "2.0.0"),
        (State.QUEUED, 452, "4.2.2"),
        (State.QUEUED, 451, "4.2.0"),
    ]
    received_at = serving.look(queue_id).received_at
    full_again, broken_again = (round(fates[place].due - received_at, -2) for place in (4, 5))
    assert full_again == 14400, "a full mailbox is left alone for long"
    assert broken_again == 300
    assert [len(dovecot.mail(user)) for user in (good, tagged, "full", "patient")] == [1, 1, 0, 0]
    report = await serving.report("diff")
    groups = [
        (group["Final-Recipient"], group["Action"], group["Status"])
        for group in report.get_payload(1).get_payload()[1:]
    ]
    assert groups == [
        ("rfc822; nobody@tcp.test", "failed", "5.1.1"),
        ("rfc822; full@tcp.test", "failed", "5.2.2"),
    ]
    assert "Diagnostic-Code: smtp; 552 5.2.2" in report.as_string()


async def test_an_unknown_user_bounces_with_the_words_of_dovecot(serving):
    queue_id = serving.send("ghost@unix.test", sender="ghost@sender.test")
    fate = await serving.fate(queue_id)
    assert fate.state is State.FAILED
    assert fate.result.stage.value == "rcpt"
    report = await serving.report("ghost")
    text = report.get_payload(0).get_content()
    assert "User doesn't exist: ghost@unix.test" in " ".join(text.split())
    assert report.get_payload(2).get_payload(0)["Subject"] == "across"


async def test_success_is_reported_where_it_was_asked_for(serving, dovecot):
    user = dovecot.user()
    recipient = (f"{user}@tcp.test", ["NOTIFY=SUCCESS"])
    serving.send(recipient, sender="wants@sender.test", options=["ENVID=envelope+2B1"])
    report = await serving.report("wants")
    message, group = report.get_payload(1).get_payload()
    assert message["Original-Envelope-Id"] == "envelope+1"
    assert (group["Action"], group["Status"]) == ("delivered", "2.0.0")


@pytest.mark.parametrize("domain", ["tcp.test", "tls.test", "unix.test"])
async def test_a_large_message_arrives_whole(serving, dovecot, domain):
    """It goes by BDAT, which Dovecot offers."""
    user = dovecot.user()
    lines = b"".join(b"%d of many\r\n.\r\n" % number for number in range(500_000))
    fate = await serving.fate(serving.send(f"{user}@{domain}", message=BODY + lines))
    assert fate.state is State.DELIVERED
    (file,) = (dovecot.folder / "mail" / user / "new").iterdir()
    stored = file.read_bytes().replace(b"\r\n", b"\n")
    assert stored.endswith(b"\nHello.\n" + lines.replace(b"\r\n", b"\n"))


async def test_octets_beyond_ascii_and_dots_stay_as_they_are(serving, dovecot):
    user = dovecot.user()
    body = "Größe\r\n.\r\n..\r\n.x\r\n".encode() + b"x" * 990 + b"\r\n\xff\xfe\r\n"
    queue_id = serving.send(f"{user}@tcp.test", message=BODY + body, options=["BODY=8BITMIME"])
    assert (await serving.fate(queue_id)).state is State.DELIVERED
    (file,) = (dovecot.folder / "mail" / user / "new").iterdir()
    assert file.read_bytes().replace(b"\r\n", b"\n").endswith(body.replace(b"\r\n", b"\n"))


async def test_more_recipients_than_fit_in_one_transaction(serving, dovecot):
    user = dovecot.user()
    addresses = [f"{user}+{number}@unix.test" for number in range(250)]
    fates = await serving.fates(serving.send(*addresses))
    assert {one.state for one in fates} == {State.DELIVERED}
    assert len(dovecot.mail(user)) == len(addresses)


async def test_many_messages_share_connections(serving, dovecot):
    user = dovecot.user()
    before = dovecot.connections
    for _ in range(100):
        serving.send(f"{user}@tcp.test")
    await serving.until(lambda: len(dovecot.mail(user)) == 100)
    assert dovecot.connections - before <= 20, "as many as may go to one destination at a time"
