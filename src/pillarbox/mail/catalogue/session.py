"""Causes around the session itself: greeting, commands, limits, closing.

Those of AUTH are in `auth`, of the envelope in `envelope`, of the message in `content`.
"""

from __future__ import annotations

from pillarbox.mail.reply import Cause, Stage

GREETING = Cause(
    "session.greeting",
    220,
    "",
    "{hostname} ESMTP Pillarbox",
    (Stage.GREETING,),
    "RFC 5321 4.3.1",
    "This server is ready.",
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
    scenarios=("E250-1",),
)
START_TLS = Cause(
    "session.start_tls",
    220,
    "2.0.0",
    "Ready to start TLS",
    (Stage.STARTTLS,),
    "RFC 3207 4",
    "The TLS handshake may begin.",
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
    scenarios=("E214-1", "E214-2"),
)
SHUTDOWN = Cause(
    "session.shutdown",
    421,
    "4.3.2",
    "{hostname} shutting down, try again",
    (Stage.ANY,),
    "RFC 5321 3.8",
    "This server is being stopped or restarted.",
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
    scenarios=("E421-4",),
)
TOO_MANY_FROM_ADDRESS = Cause(
    "session.too_many_from_address",
    421,
    "4.7.0",
    "{hostname} too many connections from your address",
    (Stage.GREETING,),
    "RFC 5321 3.8",
    "One client address holds too many connections.",
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
    scenarios=("E421-7",),
)
NOT_SMTP = Cause(
    "session.not_smtp",
    421,
    "4.7.0",
    "{hostname} this is not a web server",
    (Stage.ANY,),
    "RFC 5321 4.3.2",
    "The client speaks HTTP, not SMTP.",
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
    scenarios=("E502-1",),
)
TLS_NOT_OFFERED = Cause(
    "session.tls_not_offered",
    502,
    "5.5.1",
    "STARTTLS is not offered here",
    (Stage.STARTTLS,),
    "RFC 3207 4",
    "This listener has no certificate.",
    scenarios=("E502-2",),
)
CHUNKING_NOT_OFFERED = Cause(
    "session.chunking_not_offered",
    502,
    "5.5.1",
    "BDAT is not offered here",
    (Stage.BDAT,),
    "RFC 3030 2",
    "This listener does not offer CHUNKING.",
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
    scenarios=("E504-2",),
)
NO_MAIL_HERE = Cause(
    "session.no_mail_here",
    521,
    "5.3.2",
    "{hostname} does not accept mail",
    (Stage.GREETING, Stage.ANY),
    "RFC 7504 3",
    "This host never takes mail.",
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
    scenarios=("E554-1",),
)
