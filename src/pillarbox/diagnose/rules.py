"""The rules by which a recorded session is judged, in one table; the reference page is made from it.

How each is checked is in `lint`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from pillarbox.diagnose.transcript import Side

MAX_REPLY_OCTETS = 512  # RFC 5321 4.5.3.1.5
MAX_COMMAND_OCTETS = 512  # RFC 5321 4.5.3.1.4
MAX_LONG_COMMAND_OCTETS = 2048  # MAIL and RCPT with the parameters of every extension that lengthens them
MAX_AUTH_OCTETS = 12_288  # RFC 4954 4
MAX_TEXT_OCTETS = 1000  # RFC 5321 4.5.3.1.6


class Severity(StrEnum):
    """How bad a fault is."""

    ERROR = "error"  # the standard forbids it
    WARNING = "warning"  # allowed, or not certain, and asking for trouble


class Rule(msgspec.Struct, frozen=True):
    """One thing that a server or a client has to do or to leave."""

    id: str
    side: Side
    severity: Severity
    says: str  # one sentence
    clause: str


def _server(name: str, clause: str, says: str, severity: Severity = Severity.ERROR) -> Rule:
    return Rule(name, Side.SERVER, severity, says, clause)


def _client(name: str, clause: str, says: str, severity: Severity = Severity.ERROR) -> Rule:
    return Rule(name, Side.CLIENT, severity, says, clause)


# --- the form of replies
UNREADABLE_REPLY = _server(
    "unreadable-reply", "RFC 5321 4.2", "A reply line is three digits, then a space or a hyphen, then text."
)
BAD_CODE = _server("bad-code", "RFC 5321 4.2", "The first digit of a code is 2 to 5, the second 0 to 5.")
UNKNOWN_CODE = _server(
    "unknown-code",
    "RFC 5321 4.2.3",
    "The code is in no standard; clients go by its first digit.",
    Severity.WARNING,
)
MIXED_CODES = _server("mixed-codes", "RFC 5321 4.2.1", "All lines of a reply have the same code.")
REPLY_WITHOUT_END = _server(
    "reply-without-end", "RFC 5321 4.2.1", "The last line of a reply has a space behind its code."
)
LONG_REPLY_LINE = _server(
    "long-reply-line", "RFC 5321 4.5.3.1.5", "A reply line has at most 512 octets, the line end included."
)
REPLY_LINE_END = _server(
    "reply-line-end", "RFC 5321 2.3.8", "A line ends with CRLF, and has no other CR or LF."
)
REPLY_CHARACTERS = _server(
    "reply-characters", "RFC 5321 4.2", "The text of a reply is printable ASCII, spaces and tabs."
)
# --- enhanced status codes
STATUS_CLASS = _server(
    "status-class", "RFC 2034 4", "The first digit of the enhanced status is that of the code."
)
STATUS_NOT_HERE = _server(
    "status-not-here",
    "RFC 2034 4",
    "The greeting and the answer to EHLO, HELO or LHLO have no enhanced status.",
)
STATUS_ON_3XX = _server("status-on-3xx", "RFC 2034 4", "A reply that begins with 3 has no enhanced status.")
STATUS_VARIES = _server("status-varies", "RFC 2034 4", "All lines of a reply have the same enhanced status.")
STATUS_MISSING = _server(
    "status-missing",
    "RFC 2034 4",
    "Who offers ENHANCEDSTATUSCODES puts one into each reply of class 2, 4 and 5.",
)
STATUS_UNREGISTERED = _server(
    "status-unregistered", "RFC 5248 2", "The enhanced status is not in the registry.", Severity.WARNING
)
# --- the right reply
CODE_NOT_HERE = _server("code-not-here", "RFC 5321 4.3.2", "The code is none of those for this command.")
ACCEPTED_OUT_OF_ORDER = _server(
    "accepted-out-of-order", "RFC 5321 4.1.4", "A command that comes at the wrong time is refused."
)
NAME_MISSING = _server(
    "name-missing",
    "RFC 5321 4.2",
    "The text of 220 (greeting), 221 and 421, and of 250 to EHLO, begins with the server's domain.",
    Severity.WARNING,
)
NEW_ADDRESS_MISSING = _server(
    "new-address-missing",
    "RFC 5321 3.4",
    "The text of 251 and 551 has the new address in angle brackets.",
    Severity.WARNING,
)
UNASKED_REPLY = _server(
    "unasked-reply", "RFC 5321 4.2", "There is one reply a command; only 421 comes unasked."
)
MISSING_REPLY = _server("missing-reply", "RFC 5321 4.2", "Every command gets a reply.", Severity.WARNING)
TOO_FEW_REPLIES = _server(
    "too-few-replies",
    "RFC 2033 4.2",
    "At the end of the data LMTP has a reply for each recipient that was accepted.",
)
BAD_KEYWORD = _server(
    "bad-keyword",
    "RFC 5321 4.1.1.1",
    "A line of the answer to EHLO begins with a keyword of letters, digits and hyphens.",
)
OFFERED_NOT_SERVED = _server(
    "offered-not-served", "RFC 5321 2.2.1", "What the answer to EHLO offers is served."
)
TLS_IN_TLS = _server("tls-in-tls", "RFC 3207 4.2", "STARTTLS is not offered inside TLS.")
# --- the client's commands
COMMAND_ORDER = _client("command-order", "RFC 5321 4.1.4", "Each command comes when it is allowed.")
UNKNOWN_COMMAND = _client(
    "unknown-command", "RFC 5321 4.1.1", "The command is one of SMTP or of an extension."
)
BAD_ARGUMENT = _client("bad-argument", "RFC 5321 4.1.2", "What follows the command is well formed.")
SPACE_AFTER_COLON = _client(
    "space-after-colon", "RFC 5321 3.3", "There is no space between FROM: or TO: and the address."
)
NOT_OFFERED = _client("not-offered", "RFC 5321 2.2.1", "Only what the answer to EHLO offers is used.")
LONG_COMMAND = _client(
    "long-command",
    "RFC 5321 4.5.3.1.4",
    "A command line has at most 512 octets; MAIL, RCPT and AUTH may have more.",
)
COMMAND_LINE_END = _client(
    "command-line-end", "RFC 5321 2.3.8", "A line ends with CRLF, and has no other CR or LF."
)
COMMAND_CHARACTERS = _client(
    "command-characters", "RFC 5321 2.4", "Commands are printable ASCII, unless SMTPUTF8 was offered."
)
NOT_BASE64 = _client("not-base64", "RFC 4954 4", "What is sent during AUTH is base64, or a single asterisk.")
EARLY_TALKER = _client("early-talker", "RFC 5321 4.3.1", "The client waits for the greeting.")
PIPELINED_UNOFFERED = _client(
    "pipelined-unoffered", "RFC 2920 3.1", "Without PIPELINING on offer the client waits for each reply."
)
PIPELINED_PAST = _client(
    "pipelined-past",
    "RFC 2920 3.1",
    "EHLO, DATA, VRFY, EXPN, NOOP, QUIT, AUTH and STARTTLS are the last of a group: the client waits for their replies.",
)
LIMIT_IGNORED = _client(
    "limit-ignored", "RFC 9422 4", "The client keeps the limits of RCPTMAX and MAILMAX.", Severity.WARNING
)
# --- the message
MESSAGE_TO_NOBODY = _client(
    "message-to-nobody", "RFC 2920 3.1", "If no recipient was accepted, only a dot follows 354."
)
LONG_TEXT_LINE = _client(
    "long-text-line",
    "RFC 5321 4.5.3.1.6",
    "A line of the message has at most 1000 octets, the line end included.",
)
DOT_NOT_DOUBLED = _client(
    "dot-not-doubled",
    "RFC 5321 4.5.2",
    "A line of the message that begins with a dot gets a second one.",
    Severity.WARNING,
)
TEXT_LINE_END = _client(
    "text-line-end", "RFC 5321 2.3.8", "A line of the message ends with CRLF, and has no other CR or LF."
)
UNDECLARED_8BIT = _client(
    "undeclared-8bit", "RFC 6152 3", "A message with octets above 127 is announced by BODY=8BITMIME."
)
SIZE_UNTRUE = _client(
    "size-untrue", "RFC 1870 5", "The message is not larger than SIZE= said.", Severity.WARNING
)
SIZE_OVER_LIMIT = _client(
    "size-over-limit", "RFC 1870 6", "A message larger than the server's SIZE is not sent.", Severity.WARNING
)

RULES: dict[str, Rule] = {rule.id: rule for rule in list(vars().values()) if isinstance(rule, Rule)}
