"""swaks speaks for other clients by XCLIENT, and Postfix tells by XFORWARD where a message came from."""

import shutil
import subprocess

import pytest

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("postfix")]

SETTINGS = """
policy.relay_networks = []
policy.deny_networks = ["192.0.2.66/32"]
proxy.xclient_networks = ["127.0.0.0/8"]
proxy.xforward_networks = ["127.0.0.0/8"]
[domain."here.test"]
deliver = "maildir:{folder}/mail/{user}"
users = ["alice", "bob"]
"""


@pytest.fixture(scope="module")
def serving(serve):
    return serve(SETTINGS, ['role = "mx"'])


def swaks(serving, *more):
    program = shutil.which("swaks") or pytest.skip("swaks is not installed")
    done = subprocess.run(
        [
            program, "--server", "127.0.0.1", "--port", str(serving.ports[0]), "--helo", "client.example",
            "--from", "a@sender.example", "--to", "alice@here.test", "--timeout", "20", *more,
        ],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


async def test_swaks_speaks_for_another_client(serving):
    code, out = swaks(
        serving,
        *("--xclient-addr", "192.0.2.7", "--xclient-name", "mail.client.example", "--xclient-port", "4321"),
        *("--xclient-proto", "ESMTP", "--xclient-helo", "old.example", "--h-Subject", "for another"),
    )
    assert code == 0, out
    assert " -> XCLIENT " in out
    (message,) = await serving.mail("alice")
    assert message["Received"].startswith("from client.example (mail.client.example [192.0.2.7])")


async def test_swaks_speaks_for_a_client_that_is_denied(serving):
    code, out = swaks(serving, "--xclient-addr", "192.0.2.66")
    assert code != 0
    assert "554 pillarbox.test no service for your address" in out


async def test_postfix_tells_where_a_message_came_from(serving, postfix, unused_port):
    main = f"""
transport_maps = inline:{{ {{ here.test = smtp:[127.0.0.1]:{serving.ports[0]} }} }}
smtp_send_xforward_command = yes
relay_domains = here.test
"""
    client = postfix({"postfix.example": (unused_port(), "")}, main=main)
    client.send("bob@here.test", sender="user0@postfix.example")
    await serving.mail("bob")
    told = [event["forwarded"] for event in serving.events("message.received") if "forwarded" in event]
    (words,) = [dict(word.split("=", 1) for word in one.split()) for one in told]
    assert words["addr"] == "127.0.0.1"
    assert words["proto"] in ("SMTP", "ESMTP")
    assert words["source"] == "LOCAL"
    assert words["ident"] in client.log
