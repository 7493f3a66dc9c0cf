"""Causes that the sending side records about an attempt, when no peer said them.

Replies of peers are kept as they came and have no cause here.
"""

from __future__ import annotations

from pillarbox.mail.reply import Cause, Stage

DELIVERED = Cause(
    "delivery.delivered",
    250,
    "2.0.0",
    "{detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.1",
    "The message was delivered here.",
)
FORWARDED = Cause(
    "delivery.forwarded",
    250,
    "2.0.0",
    "Expanded to {detail}",
    (Stage.LOCAL,),
    "RFC 3464 2.3.3",
    "The address stands for others; the message went to them.",
)
NO_DOMAIN = Cause(
    "delivery.no_domain",
    550,
    "5.1.2",
    "Domain {domain} does not exist",
    (Stage.DNS,),
    "RFC 5321 5.1",
    "DNS says there is no such domain.",
)
NULL_MX = Cause(
    "delivery.null_mx",
    556,
    "5.1.10",
    "Domain {domain} accepts no mail (null MX)",
    (Stage.DNS,),
    "RFC 7505 3",
    "The domain publishes that it takes no mail.",
)
DNS_FAILED = Cause(
    "delivery.dns_failed",
    451,
    "4.4.3",
    "Looking up {domain} failed: {detail}",
    (Stage.DNS,),
    "RFC 5321 5.1",
    "DNS gave no usable answer.",
)
NO_ROUTE = Cause(
    "delivery.no_route",
    550,
    "5.4.4",
    "No host of {domain} can be reached by any route",
    (Stage.DNS,),
    "RFC 5321 5.1",
    "The domain has neither MX nor address records.",
)
MX_IS_US = Cause(
    "delivery.mx_is_us",
    550,
    "5.4.6",
    "Mail for {domain} loops back to this server",
    (Stage.DNS,),
    "RFC 5321 5.1",
    "The best MX is this server, which does not serve the domain.",
)
CONNECT_FAILED = Cause(
    "delivery.connect_failed",
    451,
    "4.4.1",
    "Connecting to {host} failed: {detail}",
    (Stage.CONNECT,),
    "RFC 5321 4.5.4.1",
    "The host refused the connection or did not answer.",
)
TOO_BUSY = Cause(
    "delivery.too_busy",
    451,
    "4.4.1",
    "Too many files or connections open on this server",
    (Stage.CONNECT,),
    "RFC 5321 4.5.4.1",
    "This server ran out of file descriptors.",
)
CONNECTION_LOST = Cause(
    "delivery.connection_lost",
    451,
    "4.4.2",
    "Connection to {host} lost while sending {detail}",
    (Stage.ANY,),
    "RFC 5321 4.5.4.1",
    "The host closed the connection too early.",
)
TIMEOUT = Cause(
    "delivery.timeout",
    451,
    "4.4.2",
    "{host} did not answer {detail} in time",
    (Stage.ANY,),
    "RFC 5321 4.5.3.2",
    "The host did not answer in time.",
)
IN_DOUBT = Cause(
    "delivery.in_doubt",
    451,
    "4.4.2",
    "Connection to {host} lost after the final dot; the message may have arrived",
    (Stage.BODY,),
    "RFC 5321 4.5.3.2.6",
    "Nobody knows whether the host took the message; it is sent again.",
)
PROTOCOL = Cause(
    "delivery.protocol",
    451,
    "4.5.0",
    "{host} broke the protocol: {detail}",
    (Stage.ANY,),
    "RFC 5321 4.2",
    "The host said something that makes no sense at this point.",
)
TOO_FEW_REPLIES = Cause(
    "delivery.too_few_replies",
    451,
    "4.5.0",
    "{host} did not answer for this recipient",
    (Stage.BODY,),
    "RFC 2033 4.2",
    "An LMTP server sent fewer replies than recipients.",
)
LOOP_TO_SELF = Cause(
    "delivery.loop_to_self",
    554,
    "5.4.6",
    "{host} greets with our own name: mail loops back to this server",
    (Stage.GREETING,),
    "RFC 5321 6.3",
    "The message would come straight back.",
)
TLS_FAILED = Cause(
    "delivery.tls_failed",
    451,
    "4.7.5",
    "TLS with {host} failed: {detail}",
    (Stage.TLS,),
    "RFC 3207 4",
    "The connection could not be encrypted as required.",
)
TLS_NOT_OFFERED = Cause(
    "delivery.tls_not_offered",
    451,
    "4.7.5",
    "{host} does not offer the TLS that is required",
    (Stage.STARTTLS,),
    "RFC 3207 4",
    "The route requires TLS and the host has none.",
)
LOGIN_NOT_POSSIBLE = Cause(
    "delivery.login_not_possible",
    451,
    "4.7.0",
    "{host} offers no login mechanism that can be used",
    (Stage.AUTH,),
    "RFC 4954 4",
    "The relay offers no AUTH that this server can use safely.",
)
NEEDS_SMTPUTF8 = Cause(
    "delivery.needs_smtputf8",
    550,
    "5.6.7",
    "{host} does not support internationalised mail (SMTPUTF8)",
    (Stage.MAIL,),
    "RFC 6531 3.2",
    "The message needs SMTPUTF8 and the next host lacks it.",
    scenarios=("E550-18",),
)
NEEDS_CONVERSION = Cause(
    "delivery.needs_conversion",
    554,
    "5.6.3",
    "{host} takes no 8-bit or binary content and it can't be converted",
    (Stage.MAIL,),
    "RFC 6152 3",
    "The content can't be carried by the next host.",
    scenarios=("E554-8",),
)
OVER_PEER_SIZE = Cause(
    "delivery.over_peer_size",
    552,
    "5.3.4",
    "Message of {size} octets is over the limit of {limit} that {host} announces",
    (Stage.MAIL,),
    "RFC 1870 6",
    "The next host takes no message of this size.",
)
EXPIRED = Cause(
    "delivery.expired",
    554,
    "5.4.7",
    "Could not be delivered within {age}",
    (Stage.LOCAL,),
    "RFC 3463 3.5",
    "The message was in the queue for too long.",
)
BOUNCED_BY_OPERATOR = Cause(
    "delivery.bounced_by_operator",
    550,
    "5.7.0",
    "Returned by the operator of this server",
    (Stage.LOCAL,),
    "RFC 3464 2.3.3",
    "The operator sent the message back.",
)
TOO_MANY_EXPANSIONS = Cause(
    "delivery.too_many_expansions",
    554,
    "5.4.6",
    "The aliases of this address form a loop",
    (Stage.LOCAL,),
    "RFC 5321 3.9",
    "The alias leads back to itself.",
)
MAILBOX_FAILED = Cause(
    "delivery.mailbox_failed",
    451,
    "4.3.0",
    "The mailbox could not be written: {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "Writing into the mailbox failed.",
)
MAILBOX_DISK_FULL = Cause(
    "delivery.mailbox_disk_full",
    452,
    "4.3.1",
    "No space to write into the mailbox",
    (Stage.LOCAL,),
    "RFC 3463 3.4",
    "The disk of the mailbox is full.",
)
MAILBOX_UNSAFE = Cause(
    "delivery.mailbox_unsafe",
    550,
    "5.1.3",
    "The address can't name a mailbox: {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.2",
    "The name can't be used safely in the file system.",
)
PROGRAM_DEFERRED = Cause(
    "delivery.program_deferred",
    451,
    "4.3.0",
    "The program put it off with exit status {exit}: {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "The delivery program asked to try again.",
)
PROGRAM_REFUSED = Cause(
    "delivery.program_refused",
    550,
    "5.3.0",
    "The program refused it with exit status {exit}: {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "The delivery program refused the message.",
)
PROGRAM_NO_USER = Cause(
    "delivery.program_no_user",
    550,
    "5.1.1",
    "The program knows no such user: {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.2",
    "The delivery program said there is no such user.",
)
PROGRAM_NOT_ALLOWED = Cause(
    "delivery.program_not_allowed",
    550,
    "5.7.1",
    "The program did not allow it: {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.8",
    "The delivery program said it is not permitted.",
)
PROGRAM_TIMEOUT = Cause(
    "delivery.program_timeout",
    451,
    "4.3.0",
    "The program did not finish within {seconds} seconds",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "The delivery program was stopped because it took too long.",
)
WEBHOOK_DEFERRED = Cause(
    "delivery.webhook_deferred",
    451,
    "4.3.0",
    "The webhook failed: {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "The web service did not take the message this time.",
)
WEBHOOK_REFUSED = Cause(
    "delivery.webhook_refused",
    550,
    "5.3.0",
    "The webhook refused it: {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "The web service refused the message for good.",
)
HANDLER_FAILED = Cause(
    "delivery.handler_failed",
    451,
    "4.3.0",
    "The handler failed; incident {incident}",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "The Python function for this address raised an error or took too long.",
)
DAMAGED = Cause(
    "delivery.damaged",
    451,
    "4.3.0",
    "The queued message is damaged and set aside: {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "The stored message can't be read.",
)
ABANDONED = Cause(
    "delivery.abandoned",
    451,
    "4.3.2",
    "This server stopped during the attempt",
    (Stage.LOCAL,),
    "RFC 5321 3.8",
    "The attempt was broken off by a shutdown.",
)
INTERNAL_ERROR = Cause(
    "delivery.internal_error",
    451,
    "4.3.0",
    "Internal error during the attempt; incident {incident}",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "A bug in this server; the incident id finds the log line.",
)
