"""Causes around the session itself: greeting, commands, limits, closing.

Those of AUTH are in `auth`, of the envelope in `envelope`, of the message in `content`.
"""

from __future__ import annotations

from pillarbox.mail.reply import Cause, Stage, Who

GREETING = Cause(
    "session.greeting",
    220,
    "",
    "{hostname} ESMTP Pillarbox",
    (Stage.GREETING, Stage.XCLIENT),
    "RFC 5321 4.3.1",
    "This server is ready.",
    explanation="The first line of every session, and of each that XCLIENT begins anew. Its first word is the server's own name.",
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    setting="hostname",
    scenarios=("E220-1", "E220-4"),
)
GREETING_LMTP = Cause(
    "session.greeting_lmtp",
    220,
    "",
    "{hostname} LMTP Pillarbox",
    (Stage.GREETING,),
    "RFC 2033 4.1",
    "This server is ready, and speaks LMTP.",
    explanation="The first line of every session on a listener for LMTP. Its first word is the server's own name.",
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    setting="listen.role",
    scenarios=("E220-1",),
)
HELLO = Cause(
    "session.hello",
    250,
    "",
    "{text}",
    (Stage.HELLO,),
    "RFC 5321 4.1.1.1",
    "The client introduced itself; these extensions may be used.",
    explanation=(
        "The client said who it is. The lines that follow list the extensions that really work in this "
        "session; after STARTTLS or a login the list may differ."
    ),
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    scenarios=("E250-1",),
)
SLOW_GREETING = Cause(
    "session.slow_greeting",
    220,
    "",
    "{hostname} wait for the end of this greeting\n{hostname} ESMTP Pillarbox",
    (Stage.GREETING,),
    "RFC 5321 4.3.1",
    "This server is ready, but took its time to say so.",
    explanation=(
        "The first line comes at once, the second a few seconds later. Mail servers wait for the whole greeting; programs "
        "that send spam are often in too great a hurry."
    ),
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    setting="greet.delay",
    scenarios=("E220-2",),
)
START_TLS = Cause(
    "session.start_tls",
    220,
    "2.0.0",
    "Ready to start TLS",
    (Stage.STARTTLS,),
    "RFC 3207 4",
    "The TLS handshake may begin.",
    explanation=(
        "Everything after this line is encrypted. Octets that came in clear text behind the command are "
        "thrown away, so that nobody can smuggle commands in."
    ),
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    setting="tls.certificate",
    scenarios=("E220-3",),
)
CLOSING = Cause(
    "session.closing",
    221,
    "2.0.0",
    "{hostname} closing connection",
    (Stage.QUIT,),
    "RFC 5321 4.1.1.10",
    "The client said goodbye.",
    explanation="The session ends as it should. A transaction that was still open is dropped.",
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    scenarios=("E221-1",),
)
OK = Cause(
    "session.ok",
    250,
    "2.0.0",
    "OK",
    (Stage.RSET, Stage.NOOP),
    "RFC 5321 4.1.1.5",
    "Done.",
    explanation="RSET gives up the open transaction, if there is one; NOOP does nothing at all.",
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    scenarios=("E250-6",),
)
HELP = Cause(
    "session.help",
    214,
    "2.0.0",
    "{text}",
    (Stage.HELP,),
    "RFC 5321 4.1.1.8",
    "Help about the commands.",
    explanation="The words come from the same table as this explanation.",
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    scenarios=("E214-1", "E214-2"),
)
STATUS = Cause(
    "session.status",
    211,
    "2.0.0",
    "{text}",
    (Stage.HELP,),
    "RFC 5321 4.2.2",
    "How the server is doing.",
    explanation="The answer to HELP STATUS for operators: uptime, sessions, queue, load, free space, encryption.",
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    setting="help.status_acl",
    scenarios=("E211-1",),
)
SHUTDOWN = Cause(
    "session.shutdown",
    421,
    "4.3.2",
    "{hostname} shutting down, try again",
    (Stage.ANY,),
    "RFC 5321 3.8",
    "This server is being stopped or restarted.",
    explanation=(
        "The server finishes what it has accepted and starts no new transaction. Messages that got their "
        "250 are safe."
    ),
    who=Who.NOBODY,
    advice="Connect again in a minute; a mail server does so by itself.",
    scenarios=("E421-1",),
)
COMMAND_TIMEOUT = Cause(
    "session.command_timeout",
    421,
    "4.4.2",
    "{hostname} no command in time, closing",
    (Stage.ANY,),
    "RFC 5321 4.5.3.2.7",
    "The client was silent for too long between commands.",
    explanation=(
        "An open connection costs the server memory, so a client that says nothing has to go in the end."
    ),
    who=Who.SENDER_ADMIN,
    advice="Send QUIT when there is nothing more to send, or connect anew for the next message.",
    setting="limits.command_timeout",
    scenarios=("E421-2",),
)
DATA_TIMEOUT = Cause(
    "session.data_timeout",
    421,
    "4.4.2",
    "{hostname} no data in time, closing",
    (Stage.BODY,),
    "RFC 5321 4.5.3.2.5",
    "The client stopped sending in the middle of a message.",
    explanation=(
        "The message broke off in the middle; nothing of it was kept. A lost network path or a firewall "
        "that cuts large packets is the usual reason."
    ),
    who=Who.SENDER_ADMIN,
    advice=("Send again; if it always breaks off at the same place, check the network path for MTU trouble."),
    setting="limits.data_timeout",
    scenarios=("E421-3",),
)
TOO_MANY_ERRORS = Cause(
    "session.too_many_errors",
    421,
    "4.7.0",
    "{hostname} too many errors, closing",
    (Stage.ANY,),
    "RFC 5321 4.3.2",
    "The client made too many mistakes in one session.",
    explanation=(
        "Refused and unreadable commands are counted. So many of them come from a broken program, or from "
        "one that tries out addresses."
    ),
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
    setting="limits.errors",
    scenarios=("E421-4",),
)
TOO_MANY_FROM_ADDRESS = Cause(
    "session.too_many_from_address",
    421,
    "4.7.0",
    "{hostname} too many connections from your address",
    (Stage.GREETING,),
    "RFC 5321 3.8",
    "One client address, or its network, holds too many connections.",
    explanation=(
        "All connections of one address count, whatever they do. Others shall get their share of the "
        "server too."
    ),
    who=Who.SENDER_ADMIN,
    advice="Send over fewer connections at the same time; several messages may go over one.",
    setting="connections.per_address",
    scenarios=("E421-5",),
)
TOO_MANY_CONNECTIONS = Cause(
    "session.too_many_connections",
    421,
    "4.3.2",
    "{hostname} too many connections",
    (Stage.GREETING,),
    "RFC 5321 3.8",
    "This server holds as many connections as it may.",
    explanation="The server protects its memory by a limit on all connections together.",
    who=Who.OPERATOR,
    advice="Try again in a minute. The operator may raise the limit if memory allows.",
    setting="connections.total",
    scenarios=("E421-6",),
)
TOO_MANY_MESSAGES = Cause(
    "session.too_many_messages",
    421,
    "4.7.0",
    "{hostname} too many messages in one session, reconnect",
    (Stage.MAIL,),
    "RFC 9422 4.1",
    "The session reached its limit of messages.",
    explanation=(
        "The limit counts all MAIL commands of a session, refused ones too. It is announced as MAILMAX "
        "among the LIMITS."
    ),
    who=Who.NOBODY,
    advice="Connect anew and send the next message there.",
    setting="limits.messages",
    scenarios=("E421-7",),
)
NOT_SMTP = Cause(
    "session.not_smtp",
    421,
    "4.7.0",
    "{hostname} only SMTP is spoken here",
    (Stage.ANY,),
    "RFC 5321 4.3.2",
    "The client speaks HTTP or begins with TLS, or sends a message without waiting to be asked for it.",
    explanation=(
        "A browser, a health check or an attack that speaks another protocol reached the mail port, or a program that does "
        "not wait for answers. Nothing it says is read further: it could be taken for commands."
    ),
    who=Who.SENDER_ADMIN,
    advice="Point the client at a port that speaks its protocol; one that begins with TLS belongs on port 465.",
    scenarios=("E500-6",),
)
UNKNOWN_COMMAND = Cause(
    "session.unknown_command",
    500,
    "5.5.2",
    "Command not recognised",
    (Stage.ANY,),
    "RFC 5321 4.2.4",
    "No SMTP command has this name.",
    explanation=(
        "The first word of the line is no command of SMTP. The session goes on; only the line is refused."
    ),
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
    scenarios=("E500-1",),
)
LINE_TOO_LONG = Cause(
    "session.line_too_long",
    500,
    "5.5.2",
    "Line too long",
    (Stage.ANY,),
    "RFC 5321 4.5.3.1.4",
    "A command line was longer than allowed and was thrown away.",
    explanation=(
        "Command lines are short by nature; the limit leaves room for every extension that is offered."
    ),
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
    setting="limits.command_line",
    scenarios=("E500-2",),
)
LINE_NOT_CLEAN = Cause(
    "session.line_not_clean",
    500,
    "5.5.2",
    "Line has a bare CR or LF, a NUL, or octets that are not allowed",
    (Stage.ANY,),
    "RFC 5321 2.3.8",
    "A command line did not end in CRLF alone or had forbidden octets.",
    explanation=(
        "Lines end in CR LF and nothing else. Hosts that disagree about line ends can be tricked into "
        "taking one message for two, so this server does not guess."
    ),
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
    scenarios=("E500-3",),
)
WRONG_HELLO = Cause(
    "session.wrong_hello",
    500,
    "5.5.1",
    "Wrong greeting command for this protocol",
    (Stage.HELLO,),
    "RFC 2033 4.1",
    "LHLO belongs to LMTP, EHLO and HELO to SMTP.",
    explanation=(
        "LMTP begins with LHLO, SMTP with EHLO or HELO. The client speaks the other protocol than this "
        "listener."
    ),
    who=Who.SENDER_ADMIN,
    advice="Use the right protocol, or the port of the other listener.",
    setting="listen.role",
    scenarios=("E500-4",),
)
HELLO_SYNTAX = Cause(
    "session.hello_syntax",
    501,
    "5.5.4",
    "A host name or address literal must follow",
    (Stage.HELLO,),
    "RFC 5321 4.1.1.1",
    "EHLO, HELO or LHLO came without a usable name.",
    explanation=(
        "The name may be any host name or address literal, but it has to look like one: letters, digits, "
        "dots and hyphens, or an address in brackets."
    ),
    who=Who.SENDER_ADMIN,
    advice="Give the client a proper host name of its own.",
    scenarios=("E501-1",),
)
UNEXPECTED_ARGUMENT = Cause(
    "session.unexpected_argument",
    501,
    "5.5.4",
    "This command takes no argument",
    (Stage.ANY,),
    "RFC 5321 4.1.1",
    "An argument stood where none belongs.",
    explanation="DATA, RSET, QUIT and STARTTLS stand alone on their line.",
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
    scenarios=("E501-5",),
)
BAD_ARGUMENT = Cause(
    "session.bad_argument",
    501,
    "5.5.4",
    "{detail}",
    (Stage.ANY,),
    "RFC 5321 4.1.1",
    "An argument could not be read.",
    explanation=(
        "What stands behind the command is not what it needs, for instance no number after BDAT. The text "
        "says which."
    ),
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
    scenarios=("E501-8",),
)
NOT_IMPLEMENTED = Cause(
    "session.not_implemented",
    502,
    "5.5.1",
    "Command not implemented",
    (Stage.ANY,),
    "RFC 5321 4.2.4",
    "The command exists in the standards, but is not offered here.",
    explanation=(
        "The command is known, but this server does not carry it out, and does not list it in the answer "
        "to EHLO."
    ),
    who=Who.SENDER_ADMIN,
    advice="Do without the command.",
    scenarios=("E502-1",),
)
TLS_BUSY = Cause(
    "session.tls_busy",
    454,
    "4.7.0",
    "TLS is not available just now, try again later",
    (Stage.STARTTLS,),
    "RFC 3207 4",
    "Too many TLS handshakes are going on.",
    explanation=(
        "A handshake costs much more than anything else a client can ask for, so only so many are done at once."
    ),
    who=Who.NOBODY,
    advice="Try again in a minute.",
    setting="tls.max_handshakes",
    scenarios=("E454-1",),
)
TLS_UNAVAILABLE = Cause(
    "session.tls_unavailable",
    454,
    "4.7.0",
    "TLS is not available, the certificate cannot be read",
    (Stage.STARTTLS,),
    "RFC 3207 4",
    "The certificates of this server cannot be read, or there are none yet.",
    explanation=(
        "TLS is set up here, but none of the files with certificates and keys can be used now. The server looks at "
        "them every few seconds, and goes on without a restart once one is in order; its log says what is wrong."
    ),
    who=Who.RECIPIENT_ADMIN,
    advice="Try again later. As the operator look for certificate.refused in the log, or ask pillarbox certificate list.",
    setting="tls.certificate",
    scenarios=("E454-1",),
)
TLS_NOT_OFFERED = Cause(
    "session.tls_not_offered",
    502,
    "5.5.1",
    "STARTTLS is not offered here",
    (Stage.STARTTLS,),
    "RFC 3207 4",
    "This listener has no certificate.",
    explanation=(
        "STARTTLS needs a certificate, and this listener has none; it is not listed in the answer to EHLO "
        "either."
    ),
    who=Who.OPERATOR,
    advice="Go on without TLS, or give the listener a certificate.",
    setting="tls.certificate",
    scenarios=("E502-2",),
)
NEED_HELLO = Cause(
    "session.need_hello",
    503,
    "5.5.1",
    "Say {verb} first",
    (Stage.ANY,),
    "RFC 5321 4.1.4",
    "The client did not introduce itself.",
    explanation="A session begins with EHLO, HELO or LHLO; after the TLS handshake it begins again.",
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
    scenarios=("E503-1",),
)
NESTED_MAIL = Cause(
    "session.nested_mail",
    503,
    "5.5.1",
    "A transaction is already open",
    (Stage.MAIL,),
    "RFC 5321 4.1.4",
    "MAIL came twice without RSET between.",
    explanation="One transaction has to end, by the message or by RSET, before the next begins.",
    who=Who.SENDER_ADMIN,
    advice="Send RSET first if the first message is not wanted any more.",
    scenarios=("E503-2",),
)
NEED_MAIL = Cause(
    "session.need_mail",
    503,
    "5.5.1",
    "Send MAIL first",
    (Stage.RCPT, Stage.DATA, Stage.BDAT),
    "RFC 5321 4.1.4",
    "A command of a transaction came before MAIL.",
    explanation=(
        "A transaction begins with MAIL. If MAIL was sent and refused, that refusal is the real reason, "
        "and this reply only its echo."
    ),
    who=Who.SENDER_ADMIN,
    advice="Look for the first refusal in the transcript.",
    scenarios=("E503-3",),
)
NEED_RCPT = Cause(
    "session.need_rcpt",
    503,
    "5.5.1",
    "Send RCPT first",
    (Stage.DATA, Stage.BDAT),
    "RFC 5321 3.3",
    "The message has no recipient yet.",
    explanation="The message needs at least one RCPT before its content.",
    who=Who.SENDER_ADMIN,
    advice="Look for the first refusal in the transcript.",
    scenarios=("E503-4",),
)
NO_RECIPIENT_LMTP = Cause(
    "session.no_recipient_lmtp",
    503,
    "5.5.1",
    "No valid recipients",
    (Stage.DATA, Stage.BDAT),
    "RFC 2033 4.2",
    "Every recipient was refused, in LMTP.",
    explanation="Each RCPT got its own refusal before; this reply is only the echo of those. LMTP demands this code for it.",
    who=Who.SENDER,
    advice="Look at the refusals of the recipients.",
    scenarios=("E503-4",),
)
IN_CHUNKS = Cause(
    "session.in_chunks",
    503,
    "5.5.1",
    "A BDAT transfer is open; finish it or send RSET",
    (Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BDAT),
    "RFC 3030 2",
    "Only BDAT and RSET make sense between chunks.",
    explanation=(
        "After the first BDAT only more of it may follow, up to the one with LAST; or RSET to give up."
    ),
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
    scenarios=("E503-5",),
)
CHUNKS_BROKEN = Cause(
    "session.chunks_broken",
    503,
    "5.5.1",
    "The BDAT transfer has failed; send RSET",
    (Stage.BDAT,),
    "RFC 3030 2",
    "A chunk was refused before, so later ones make no message.",
    explanation=(
        "An earlier chunk was refused. The octets of later ones are read and thrown away, so that the "
        "session stays in step."
    ),
    who=Who.SENDER_ADMIN,
    advice="Look for the first refusal in the transcript, then send RSET.",
    scenarios=("E503-5",),
)
BINARY_NEEDS_BDAT = Cause(
    "session.binary_needs_bdat",
    503,
    "5.5.1",
    "BODY=BINARYMIME needs BDAT",
    (Stage.DATA,),
    "RFC 3030 3",
    "A binary message can't be sent by DATA.",
    explanation="Content that is not made of lines can't be ended by a dot on a line of its own.",
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
    scenarios=("E503-5",),
)
AUTH_NOT_NOW = Cause(
    "session.auth_not_now",
    503,
    "5.5.1",
    "AUTH is not allowed now",
    (Stage.AUTH,),
    "RFC 4954 4",
    "AUTH came twice, or inside a transaction.",
    explanation="A login comes once in a session, after EHLO and outside of a transaction.",
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
    scenarios=("E503-6",),
)
TLS_NOT_NOW = Cause(
    "session.tls_not_now",
    503,
    "5.5.1",
    "STARTTLS is not allowed now",
    (Stage.STARTTLS,),
    "RFC 3207 4",
    "TLS is already on, or a transaction is open.",
    explanation="TLS starts once in a session, after EHLO and outside of a transaction.",
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
    scenarios=("E503-7",),
)
HELP_UNKNOWN = Cause(
    "session.help_unknown",
    504,
    "5.5.4",
    "No help on this",
    (Stage.HELP,),
    "RFC 5321 4.1.1.8",
    "There is no such help topic.",
    explanation="HELP knows the verbs that this server takes in such a session; HELP alone lists those that fit now.",
    who=Who.NOBODY,
    advice="Say HELP alone to see what there is.",
    scenarios=("E504-2",),
)
STATUS_DENIED = Cause(
    "session.status_denied",
    504,
    "5.5.4",
    "No help on this",
    (Stage.HELP,),
    "RFC 5321 4.1.1.8",
    "The status of the server is not for this client.",
    explanation="HELP STATUS is answered to clients in certain networks and to administrators who logged in; for others there is no such topic.",
    who=Who.NOBODY,
    advice="Say HELP alone to see what there is.",
    setting="help.status_acl",
    scenarios=("E211-2",),
)
NO_MAIL_HERE = Cause(
    "session.no_mail_here",
    521,
    "5.3.2",
    "{hostname} does not accept mail",
    (Stage.GREETING, Stage.ANY),
    "RFC 7504 3",
    "This host never takes mail.",
    explanation=(
        "The operator made this listener answer every client so, that senders learn at once what would "
        "otherwise take days of tries."
    ),
    who=Who.SENDER,
    advice="Check the domain of the address; its MX records may name the wrong host.",
    setting="listen.role",
    scenarios=("E521-1",),
)

REFUSED = Cause(
    "session.refused",
    503,
    "5.5.1",
    "No service for you here, only QUIT is accepted",
    (Stage.ANY,),
    "RFC 5321 3.1",
    "The greeting refused this client; only QUIT is left.",
    explanation="The greeting said that this client gets no service. It is expected to say QUIT.",
    who=Who.SENDER_ADMIN,
    advice="Look at the greeting for the reason.",
    scenarios=("E503-9",),
)
CLIENT_DENIED = Cause(
    "session.client_denied",
    554,
    "5.7.1",
    "{hostname} no service for your address",
    (Stage.GREETING,),
    "RFC 5321 3.1",
    "The operator's rules refuse this client address.",
    explanation="The client's address is one that the operator, or a hook of theirs, does not serve.",
    who=Who.SENDER_ADMIN,
    advice="Ask the operator of this server, or send through another host.",
    setting="policy.deny_networks",
    scenarios=("E554-1",),
)
