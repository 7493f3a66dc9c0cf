"""No message hides in another one on the way to Postfix, which takes more for an end of the data than it should."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import pillarbox

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("postfix")]

ENDS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r\r\n.\r\r\n",
    b"\r\n.\r\r\n",
    b"\r\n.\r\n",
]


@pytest.fixture(scope="module")
def host(postfix, unused_port):
    lenient = "smtpd_forbid_bare_newline=no\nsmtpd_forbid_unauth_pipelining=no"
    return postfix({"plain.test": (unused_port(), lenient)})


@pytest.fixture(scope="module")
def serving(serve, host):
    return serve(f'[[route]]\nmatch = "plain.test"\nvia = "smtp://127.0.0.1:{host.ports["plain.test"]}"\n')


def attack(user, victim):
    """A message with another one behind each end that some server sees."""
    inner = (
        f"MAIL FROM:<ceo@bank.test>\r\nRCPT TO:<{victim}@plain.test>\r\nDATA\r\nSubject: inner\r\n\r\npwned"
    )
    hidden = b"".join(end + inner.encode() for end in ENDS)
    return (
        f"From: ann@sender.test\r\nTo: {user}@plain.test\r\nSubject: outer\r\n\r\n".encode()
        + hidden
        + b"\r\nlast"
    )


async def only_one_came(host, user, victim):
    (message,) = await host.mail(user)
    assert message["Subject"] == "outer"
    assert "last" in message.get_content()
    assert host.peek(victim) == []


async def test_from_the_library(host):
    user, victim = host.user(), host.user()
    replies = await pillarbox.send(
        attack(user, victim),
        "ann@sender.test",
        [f"{user}@plain.test"],
        ("127.0.0.1", host.ports["plain.test"]),
    )
    assert replies[f"{user}@plain.test"].positive
    await only_one_came(host, user, victim)


async def test_from_the_sendmail_command(serving, host):
    user, victim = host.user(), host.user()
    subprocess.run(
        [sys.executable, "-m", "pillarbox", "sendmail", "-i", "-f", "ann@sender.test", f"{user}@plain.test"],
        input=attack(user, victim),
        env=os.environ | {"PILLARBOX_SENDMAIL": f"127.0.0.1:{serving.ports[0]}"},
        check=True,
        timeout=30,
    )
    await only_one_came(host, user, victim)
