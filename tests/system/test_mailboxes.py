"""Users who are away, have moved or get their mail elsewhere, on a whole server."""

import signal

from pillarbox.testing import ScriptedPeer

LISTEN = '[[listen]]\naddress = "127.0.0.1:0"\n'


async def test_E251_1_a_forwarded_user_is_told_and_the_mail_really_forwarded(serve, dial):
    async with ScriptedPeer() as elsewhere:
        server = await serve(f"""
            {LISTEN}
            [domain."example.org"]
            aliases.postmaster = "fay"
            user.fay.forward = ["fay@new.example"]
            forward.reveal = "always"
            [[route]]
            match = "new.example"
            via = "smtp://127.0.0.1:{elsewhere.port}"
            """)
        caller = await dial(server.port)
        await caller.reply()
        await caller.ask(b"HELO client.example")
        await caller.ask(b"MAIL FROM:<a@sender.example>")
        answer = await caller.ask(b"RCPT TO:<fay@example.org>")
        assert answer.startswith(b"251 2.1.5 ")
        assert answer.endswith(b"<fay@new.example>\r\n")
        await caller.ask(b"DATA")
        assert (await caller.ask(b"Subject: hello\r\n\r\nhello\r\n.")).startswith(b"250 ")
        await elsewhere.until(lambda: len(elsewhere.messages) == 1)
        assert any(command.startswith("RCPT TO:<fay@new.example>") for command in elsewhere.commands)


async def reload(server, text):
    before = len(server.events("config.reloaded"))
    server.configure(text)
    server.signal(signal.SIGHUP)
    await server.until(lambda: server.events("config.reloaded")[before:])


async def test_mail_in_the_queue_meets_the_state_of_the_account(serve, mailbox, send, tmp_path):
    """It waits for a paused account, and goes back when the user has left."""
    async with ScriptedPeer({"RCPT": "450 4.2.0 Not yet", "DATA": "503 5.5.1 None"}, lmtp=True) as away:
        text = f"""
            {LISTEN}
            [queue.retry]
            first = "50ms"
            max = "200ms"
            [domain."example.org"]
            users = ["ann", "bob", "postmaster"]
            """
        server = await serve(f'{text}deliver = "lmtp://127.0.0.1:{away.port}"\n')
        sent = await send(server.port, "ann@example.org", "bob@example.org", sender="ann@example.org")
        await away.until(lambda: any(one.startswith("RCPT") for one in away.commands))
        here = f'{text}deliver = "maildir:{tmp_path}/mail/{{user}}"\n'
        await reload(server, f'{here}user.ann.state = "paused"\nuser.bob.state = "left"\n')
        await server.until(lambda: "450 4.2.1 Mailbox takes" in str(server.recipient(sent.id)["reply"]))
        assert (await server.reached("failed", sent.id, 1))["reply"].startswith("550 5.1.6 ")
        await reload(server, here)
        copies = await mailbox("ann").filled(2)  # the message, and the report about bob
        assert any("5.1.6" in copy.as_string() for copy in copies)
