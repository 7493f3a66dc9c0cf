"""Causes around MAIL, RCPT, VRFY and EXPN.

What is said about the message itself is in `content`.
"""

from __future__ import annotations

from pillarbox.mail.reply import Cause, Stage

SENDER_OK = Cause(
    "envelope.sender_ok",
    250,
    "2.1.0",
    "Sender OK",
    (Stage.MAIL,),
    "RFC 5321 3.3",
    "The reverse-path is accepted.",
    scenarios=("E250-2",),
)
RECIPIENT_OK = Cause(
    "envelope.recipient_ok",
    250,
    "2.1.5",
    "Recipient OK",
    (Stage.RCPT,),
    "RFC 5321 3.3",
    "The forward-path is accepted.",
    scenarios=("E250-3",),
)
CANNOT_VERIFY = Cause(
    "envelope.cannot_verify",
    252,
    "2.5.0",
    "Cannot say, but will take mail and try to deliver it",
    (Stage.VRFY, Stage.EXPN),
    "RFC 5321 3.5.3",
    "The server does not tell whether the address exists.",
    scenarios=("E252-1", "E252-2"),
)
SENDER_SYNTAX = Cause(
    "envelope.sender_syntax",
    501,
    "5.1.7",
    "Sender: {detail}",
    (Stage.MAIL,),
    "RFC 5321 4.1.2",
    "The reverse-path can't be read.",
    scenarios=("E501-2",),
)
RECIPIENT_SYNTAX = Cause(
    "envelope.recipient_syntax",
    501,
    "5.1.3",
    "Recipient: {detail}",
    (Stage.RCPT,),
    "RFC 5321 4.1.2",
    "The forward-path can't be read.",
    scenarios=("E501-3",),
)
PARAMETER_VALUE = Cause(
    "envelope.parameter_value",
    501,
    "5.5.4",
    "Parameter {detail}",
    (Stage.MAIL, Stage.RCPT),
    "RFC 5321 4.1.1.11",
    "A parameter's value is not allowed, or it came twice.",
    scenarios=("E501-4",),
)
PARAMETER_UNKNOWN = Cause(
    "envelope.parameter_unknown",
    555,
    "5.5.4",
    "Parameter {detail} is not known or not offered",
    (Stage.MAIL, Stage.RCPT),
    "RFC 5321 4.1.1.11",
    "A parameter belongs to no extension offered here.",
    scenarios=("E555-1", "E555-2"),
)
SIZE_TOO_BIG = Cause(
    "envelope.size_too_big",
    552,
    "5.3.4",
    "Message of {size} octets is over the limit of {limit}",
    (Stage.MAIL,),
    "RFC 1870 6",
    "The announced size is over the limit.",
    scenarios=("E552-1",),
)
NO_SPACE = Cause(
    "envelope.no_space",
    452,
    "4.3.1",
    "Not enough free space, try later",
    (Stage.MAIL,),
    "RFC 1870 6",
    "The disk has too little room left.",
    scenarios=("E452-1",),
)
QUEUE_FULL = Cause(
    "envelope.queue_full",
    452,
    "4.3.1",
    "Too many messages queued, try later",
    (Stage.MAIL,),
    "RFC 5321 4.5.3.1",
    "The queue holds as many messages as it may.",
    scenarios=("E452-6",),
)
TOO_MANY_RECIPIENTS = Cause(
    "envelope.too_many_recipients",
    452,
    "4.5.3",
    "Too many recipients, send the rest in another transaction",
    (Stage.RCPT,),
    "RFC 5321 4.5.3.1.10",
    "The transaction reached its limit of recipients.",
    scenarios=("E452-2",),
)
DIRECTORY_DOWN = Cause(
    "envelope.directory_down",
    451,
    "4.4.3",
    "Recipient can't be looked up just now",
    (Stage.RCPT, Stage.VRFY),
    "RFC 5321 4.2.2",
    "The user directory or DNS did not answer.",
    scenarios=("E451-2",),
)
HOOK_FAILED = Cause(
    "envelope.hook_failed",
    451,
    "4.3.0",
    "Policy check failed, try again; incident {incident}",
    (Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BODY),
    "RFC 5321 4.2.2",
    "A hook raised an error or took too long.",
    scenarios=("E451-1",),
)
RECIPIENT_UNKNOWN = Cause(
    "envelope.recipient_unknown",
    550,
    "5.1.1",
    "No such user here",
    (Stage.RCPT, Stage.VRFY),
    "RFC 5321 3.3",
    "The domain is ours, the mailbox does not exist.",
    scenarios=("E550-1",),
)
RELAY_DENIED = Cause(
    "envelope.relay_denied",
    550,
    "5.7.1",
    "Relaying denied",
    (Stage.RCPT,),
    "RFC 5321 3.6.2",
    "The domain is not ours and the client may not relay.",
    scenarios=("E550-3",),
)
REFUSED_BY_HOOK = Cause(
    "envelope.refused_by_hook",
    550,
    "5.7.1",
    "Refused by policy",
    (Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BODY),
    "RFC 5321 4.2.2",
    "A hook of the operator refused it.",
    scenarios=("E550-7", "E550-20"),
)
ROUTED_ADDRESS = Cause(
    "envelope.routed_address",
    553,
    "5.1.3",
    "Addresses with routing inside are not accepted",
    (Stage.RCPT,),
    "RFC 5321 4.1.2",
    "The local part tries to name another host, by % or !.",
    scenarios=("E553-1",),
)
SENDER_NOT_OWNED = Cause(
    "envelope.sender_not_owned",
    553,
    "5.7.1",
    "This login may not use this sender address",
    (Stage.MAIL,),
    "RFC 6409 6.1",
    "The account does not own the reverse-path.",
    scenarios=("E553-3",),
)
NEEDS_SMTPUTF8 = Cause(
    "envelope.needs_smtputf8",
    553,
    "5.6.7",
    "Address with non-ASCII characters needs the SMTPUTF8 parameter",
    (Stage.MAIL, Stage.RCPT),
    "RFC 6531 3.4",
    "A non-ASCII address came without SMTPUTF8.",
    scenarios=("E553-4",),
)
DOMAIN_TAKES_NO_MAIL = Cause(
    "envelope.domain_takes_no_mail",
    556,
    "5.1.10",
    "This domain does not accept mail",
    (Stage.RCPT,),
    "RFC 7504 4",
    "The domain is marked as one that takes no mail.",
    scenarios=("E556-2",),
)
