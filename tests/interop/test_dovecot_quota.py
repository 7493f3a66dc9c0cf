"""One Maildir with a quota, shared with a real Dovecot: each keeps to what the other has written in `maildirsize`."""

import getpass
import os
import pwd
import shutil
import subprocess
import time

import pytest

from pillarbox.mail.route import Route, Transport
from pillarbox.policy.maildirsize import Room, judge, measure, open_home
from pillarbox.policy.users import Mailbox, Overflow, Quota
from pillarbox.relay.local import LocalCouriers, LocalSettings
from pillarbox.testing import letter

DOVEADM = shutil.which("doveadm", path="/usr/sbin:/usr/bin")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(DOVEADM is None, reason="dovecot is not installed"),
]
CONFIGURATION = """
base_dir = {folder}/run
log_path = {folder}/errors
ssl = no
first_valid_uid = 1
first_valid_gid = 1
mail_uid = {uid}
mail_gid = {gid}
mail_location = maildir:{folder}/mail/ann
mail_plugins = quota
plugin {{
  quota = maildir:Mailbox
}}
"""


@pytest.fixture
def quota(open_folder):
    folder = open_folder()
    (folder / "mail").mkdir()
    owner = pwd.getpwnam("nobody" if os.geteuid() == 0 else getpass.getuser())
    text = CONFIGURATION.format(folder=folder, uid=owner.pw_uid, gid=owner.pw_gid)
    (folder / "dovecot.conf").write_text(text)
    return Quota(f"{folder}/mail/./ann", 1000, 0, 0, Overflow.REJECT, 0.0)


@pytest.fixture
def doveadm(quota, tmp_path):
    """Run a command of Dovecot on the mailbox; its exit status and what it says."""
    folder = quota.home.partition("/mail/./")[0]

    def run(*arguments):
        owner = "nobody" if os.geteuid() == 0 else getpass.getuser()
        if os.geteuid() == 0:
            shutil.chown(f"{folder}/mail", owner)
            for root, folders, files in os.walk(f"{folder}/mail"):
                for name in (*folders, *files):
                    shutil.chown(f"{root}/{name}", owner)
        done = subprocess.run(
            [DOVEADM, "-c", f"{folder}/dovecot.conf", *arguments],
            env=os.environ | {"USER": owner, "HOME": folder},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture
async def deliver(quota):
    """Deliver a message of ours; the cause of the result."""
    couriers = LocalCouriers(
        LocalSettings(), hostname="mx.example.org", mailbox_of=lambda address: Mailbox(address, quota=quota)
    )
    numbers = iter(range(1, 100))

    async def run(octets):
        queued = letter("ann@example.org", body=b"Subject: x\r\n\r\n" + b"x" * octets, number=next(numbers))
        courier = couriers(Route(Transport.MAILDIR, quota.home))
        (result,) = (await courier.deliver(queued)).values()
        return result.reply.cause_id

    yield run
    await couriers.close()


def usage(quota):
    with open_home(quota) as home:
        found = measure(home, quota)
        return found.octets, found.messages


async def test_each_keeps_to_what_the_other_counts(quota, doveadm, deliver, tmp_path):
    folder = quota.home.replace("/./", "/")
    assert await deliver(200) == "delivery.delivered"
    ours, _ = usage(quota)
    status, said = doveadm("-f", "tab", "quota", "get")
    assert status == 0, said
    assert "MESSAGE\t1\t" in said
    # Dovecot delivers, and we count it
    small = f"{folder}/../small"
    with open(small, "w") as file:  # noqa: PTH123 - beside the mailbox
        file.write("Subject: y\n\n" + "y" * 200 + "\n")
    os.chmod(small, 0o644)  # noqa: PTH101
    assert doveadm("save", small)[0] == 0
    octets, messages = usage(quota)
    assert messages == 2
    assert octets > ours + 200
    # what does not fit any more is refused by both, though only we were told the limit
    assert await deliver(1000 - octets) == "mailbox.full"
    while doveadm("save", small)[0] == 0:
        assert usage(quota)[0] <= 1000
    assert "Quota exceeded" in doveadm("save", small)[1]
    # and what Dovecot deletes makes room here
    assert doveadm("expunge", "mailbox", "INBOX", "all")[0] == 0
    assert usage(quota) == (0, 0)
    with open_home(quota) as home:
        assert judge(home, quota, 900, time.time()) is Room.ENOUGH
    assert await deliver(200) == "delivery.delivered"
