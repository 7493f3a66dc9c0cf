"""Causes that the sending side records about an attempt, when no peer said them.

Replies of peers are kept as they came and have no cause here.
"""

from __future__ import annotations

from pillarbox.mail.reply import Cause, Stage, Who

DELIVERED = Cause(
    "delivery.delivered",
    250,
    "2.0.0",
    "{detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.1",
    "The message was delivered here.",
    explanation="It is where mail for this address is kept, or the program that takes it has accepted it.",
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    setting="domain.deliver",
)
FORWARDED = Cause(
    "delivery.forwarded",
    250,
    "2.0.0",
    "Expanded to {detail}",
    (Stage.LOCAL,),
    "RFC 3464 2.3.3",
    "The address stands for others; the message went to them.",
    explanation=(
        "The address is an alias or a list. What happens to each copy is reported apart, if at all."
    ),
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    setting="domain.aliases",
)
NO_DOMAIN = Cause(
    "delivery.no_domain",
    550,
    "5.1.2",
    "Domain {domain} does not exist",
    (Stage.DNS,),
    "RFC 5321 5.1",
    "DNS says there is no such domain.",
    explanation=(
        "The part of the address after the @ sign is not registered. Most often it has a typing error."
    ),
    who=Who.SENDER,
    advice="Check the part after the @ sign for typing errors.",
)
NULL_MX = Cause(
    "delivery.null_mx",
    556,
    "5.1.10",
    "Domain {domain} accepts no mail (null MX)",
    (Stage.DNS,),
    "RFC 7505 3",
    "The domain publishes that it takes no mail.",
    explanation="That is what the owner of the domain asks for, so no host was even tried.",
    who=Who.SENDER,
    advice="Check the part after the @ sign for typing errors; at this domain nobody can be reached.",
)
DNS_FAILED = Cause(
    "delivery.dns_failed",
    451,
    "4.4.3",
    "Looking up {domain} failed: {detail}",
    (Stage.DNS,),
    "RFC 5321 5.1",
    "DNS gave no usable answer.",
    explanation="Which host takes mail for the domain has to be looked up there first.",
    who=Who.RECIPIENT_ADMIN,
    advice=(
        "Wait. If it lasts, the administrator of the domain should check its DNS, and the operator here "
        "the resolver."
    ),
    setting="dns.nameservers",
)
NO_ROUTE = Cause(
    "delivery.no_route",
    550,
    "5.4.4",
    "No host of {domain} can be reached by any route",
    (Stage.DNS,),
    "RFC 5321 5.1",
    "DNS names no address at which mail for the domain is taken.",
    explanation=(
        "The domain exists, but it has neither an MX record nor an address, or the host that its MX record names has no "
        "address."
    ),
    who=Who.RECIPIENT_ADMIN,
    advice=(
        "Check the part after the @ sign. If it is right, the domain's administrator has to publish an MX "
        "record, and an address of the host that it names."
    ),
    setting="route",
)
MX_IS_US = Cause(
    "delivery.mx_is_us",
    550,
    "5.4.6",
    "Mail for {domain} loops back to this server",
    (Stage.DNS,),
    "RFC 5321 5.1",
    "The best MX is this server, which does not serve the domain.",
    explanation=(
        "DNS sends mail for the domain to this server, which has not been told to serve it. Either is wrong."
    ),
    who=Who.OPERATOR,
    advice=(
        "The operator of this server has to add the domain, or its administrator has to correct the MX "
        "record."
    ),
    setting="domain",
)
CONNECT_FAILED = Cause(
    "delivery.connect_failed",
    451,
    "4.4.1",
    "Connecting to {host} failed: {detail}",
    (Stage.CONNECT,),
    "RFC 5321 4.5.4.1",
    "The host refused the connection or did not answer.",
    explanation="Either it is down, or it can't be reached from here. All hosts of the domain were tried.",
    who=Who.RECIPIENT_ADMIN,
    advice="Wait. If it lasts for a day, tell the recipient in another way.",
    setting="relay.patience.connect",
)
TOO_BUSY = Cause(
    "delivery.too_busy",
    451,
    "4.4.1",
    "Too many files or connections open on this server",
    (Stage.CONNECT,),
    "RFC 5321 4.5.4.1",
    "This server ran out of file descriptors.",
    explanation="It is not the destination's fault: this server may not open more connections.",
    who=Who.OPERATOR,
    advice="Wait; the operator should raise the limit of open files or lower that of deliveries at a time.",
    setting="queue.lanes",
)
LEFT_ALONE = Cause(
    "delivery.left_alone",
    451,
    "4.4.0",
    "Not tried: {host} is left alone until {until}; {said}",
    (Stage.LOCAL,),
    "RFC 5321 4.5.4.1",
    "The host is given a rest, so it was not asked this time.",
    explanation=(
        "A host that can't be reached, or says that it can't take mail now, is left alone for a while. What it answered "
        "before stands in the reply; this message was not shown to it since."
    ),
    who=Who.NOBODY,
    advice="Wait; it is tried again by itself.",
    setting="relay.dead",
)
CONNECTION_LOST = Cause(
    "delivery.connection_lost",
    451,
    "4.4.2",
    "Connection to {host} lost before it answered {detail}",
    (Stage.ANY,),
    "RFC 5321 4.5.4.1",
    "The host closed the connection too early.",
    explanation="The message was not over yet, so it did not arrive. Such trouble mostly passes.",
    who=Who.NOBODY,
    advice="Wait; it is tried again by itself.",
)
TIMEOUT = Cause(
    "delivery.timeout",
    451,
    "4.4.2",
    "{host} did not answer {detail} in time",
    (Stage.ANY,),
    "RFC 5321 4.5.3.2",
    "The host did not answer in time.",
    explanation="It was connected, but stayed silent for longer than the standard allows.",
    who=Who.RECIPIENT_ADMIN,
    advice="Wait; it is tried again by itself.",
    setting="relay.patience",
)
IN_DOUBT = Cause(
    "delivery.in_doubt",
    451,
    "4.4.2",
    "Connection to {host} lost after the final dot; the message may have arrived",
    (Stage.BODY,),
    "RFC 5321 4.5.3.2.6",
    "Nobody knows whether the host took the message.",
    explanation=(
        "The whole message was sent, but the answer that confirms it got lost. While there is time it is sent again, "
        "since a second copy is better than none."
    ),
    who=Who.NOBODY,
    advice="If the message arrives twice, this is the reason.",
    setting="relay.patience.end",
)
PROTOCOL = Cause(
    "delivery.protocol",
    451,
    "4.5.0",
    "{host} broke the protocol: {detail}",
    (Stage.ANY,),
    "RFC 5321 4.2",
    "The host said something that makes no sense at this point.",
    explanation=(
        "The answer was not one that SMTP allows there. The host has a fault, or something between the "
        "hosts changes what is said."
    ),
    who=Who.RECIPIENT_ADMIN,
    advice="Wait. If it lasts, tell the recipient's mail administrator.",
)
TOO_FEW_REPLIES = Cause(
    "delivery.too_few_replies",
    451,
    "4.5.0",
    "{host} did not answer for this recipient",
    (Stage.BODY,),
    "RFC 2033 4.2",
    "An LMTP server sent fewer replies than recipients.",
    explanation=(
        "An LMTP server answers once for each recipient. For this one it did not, so nobody knows whether "
        "it took the message."
    ),
    who=Who.OPERATOR,
    advice="Wait; the operator should look at the LMTP server.",
)
LOOP_TO_SELF = Cause(
    "delivery.loop_to_self",
    554,
    "5.4.6",
    "{host} greets with our own name: mail loops back to this server",
    (Stage.GREETING,),
    "RFC 5321 6.3",
    "The message would come straight back.",
    explanation=(
        "The host that should take the message has the same name as this server: mail would go around in "
        "circles."
    ),
    who=Who.OPERATOR,
    advice=("The operator of this server has to add the domain, or to correct the route or the MX record."),
    setting="hostname",
)
TLS_FAILED = Cause(
    "delivery.tls_failed",
    451,
    "4.7.5",
    "TLS with {host} failed: {detail}",
    (Stage.TLS,),
    "RFC 3207 4",
    "The connection could not be encrypted as required.",
    explanation=(
        "The connection has to be encrypted, and the two hosts could not agree on how, or the certificate "
        "is not valid."
    ),
    who=Who.RECIPIENT_ADMIN,
    advice=(
        "Wait. If it lasts, the administrators of both hosts should check certificates and TLS settings."
    ),
    setting="relay.tls",
)
TLS_NOT_OFFERED = Cause(
    "delivery.tls_not_offered",
    451,
    "4.7.5",
    "{host} does not offer the TLS that is required",
    (Stage.STARTTLS,),
    "RFC 3207 4",
    "The route requires TLS and the host has none.",
    explanation="The message may leave only over an encrypted connection, and the host offers none.",
    who=Who.RECIPIENT_ADMIN,
    advice="The host needs a certificate, or the operator has to allow clear text for this route.",
    setting="relay.tls",
)
LOGIN_NOT_POSSIBLE = Cause(
    "delivery.login_not_possible",
    451,
    "4.7.0",
    "{host} offers no login mechanism that can be used",
    (Stage.AUTH,),
    "RFC 4954 4",
    "The relay offers no AUTH that this server can use safely.",
    explanation=(
        "The route names a user, but the relay offers no way to log in that would keep the password safe."
    ),
    who=Who.OPERATOR,
    advice="The operator should check the route: its port, TLS and user name.",
    setting="relay.passwords",
)
RELAY_UNPROVEN = Cause(
    "delivery.relay_unproven",
    451,
    "4.7.0",
    "{host} could not show that it knows the password",
    (Stage.AUTH,),
    "RFC 5802 3",
    "The relay may not be the one that it should be.",
    explanation=(
        "With SCRAM both sides prove that they know the password. The relay did not, so nothing was sent, and no "
        "weaker mechanism was tried, which would have shown it the password."
    ),
    who=Who.OPERATOR,
    advice="Check the route and the certificate of the relay; if both are right, ask those who run it.",
    setting="relay.passwords",
)
NEEDS_SMTPUTF8 = Cause(
    "delivery.needs_smtputf8",
    550,
    "5.6.7",
    "{host} does not support internationalised mail (SMTPUTF8)",
    (Stage.MAIL,),
    "RFC 6531 3.2",
    "The message needs SMTPUTF8 and the next host lacks it.",
    explanation=(
        "The message has letters beyond ASCII in its addresses or header fields, and the next host can't "
        "carry those."
    ),
    who=Who.SENDER,
    advice="Use addresses in plain ASCII, if sender and recipient have any.",
    scenarios=("E550-18",),
)
NEEDS_REQUIRETLS = Cause(
    "delivery.needs_requiretls",
    550,
    "5.7.30",
    "{host} does not promise to keep the message under TLS: {detail}",
    (Stage.MAIL,),
    "RFC 8689 4.2.1",
    "The message must not travel without TLS, and this host can't promise that.",
    explanation=(
        "The sender asked with REQUIRETLS that the message be handed on only over TLS, to hosts that prove who "
        "they are and pass the demand on."
    ),
    who=Who.RECIPIENT_ADMIN,
    advice="Send it without that demand, or reach the recipient another way.",
    scenarios=("E550-19",),
)
NEEDS_DELIVERBY = Cause(
    "delivery.needs_deliverby",
    550,
    "5.4.7",
    "{host} can't be told until when the message is wanted",
    (Stage.MAIL,),
    "RFC 2852 4",
    "The message is to be returned if it comes too late, and the next host does not know how.",
    explanation=(
        "The sender asked with BY=...;R that the message arrive in time or not at all. The next host offers no "
        "DELIVERBY, or only for longer times than are left."
    ),
    who=Who.SENDER,
    advice="Send it without a time, or ask to be notified only.",
)
TOO_LATE = Cause(
    "delivery.too_late",
    550,
    "5.4.7",
    "The time to deliver in is over",
    (Stage.LOCAL,),
    "RFC 2852 4",
    "The message could not be delivered in the time that its sender gave it.",
    explanation="The sender asked with BY=...;R that the message arrive in time or not at all.",
    who=Who.SENDER,
    advice="Send it again if it is still of use.",
)
DEADLINE_OVER = Cause(
    "delivery.deadline_over",
    451,
    "4.4.7",
    "The time to deliver in is over, it is tried further",
    (Stage.LOCAL,),
    "RFC 2852 4",
    "The message is later than its sender wanted.",
    explanation="The sender asked with BY=...;N to be told when the message does not arrive in time.",
    who=Who.NOBODY,
    advice="Nothing needs to be done; it may still arrive.",
)
NEEDS_RRVS = Cause(
    "delivery.needs_rrvs",
    550,
    "5.7.19",
    "{host} can't check since when the mailbox has its owner",
    (Stage.RCPT,),
    "RFC 7293 5.3",
    "The message is for a former owner's eyes only, and the next host can't tell owners apart.",
    explanation=(
        "The sender asked with RRVS that nobody get the message who has had the address for a shorter time than "
        "named, and to refuse it where that can't be checked."
    ),
    who=Who.SENDER,
    advice="Send it without that demand, if its content allows.",
)
NEEDS_CONVERSION = Cause(
    "delivery.needs_conversion",
    554,
    "5.6.3",
    "{host} does not offer {extension}, which the content needs, and it can't be converted",
    (Stage.MAIL,),
    "RFC 6152 3",
    "The content can't be carried by the next host.",
    explanation=(
        "The message has 8-bit or binary content, and the next host does not offer to take such. This server never "
        "changes a message, for that would break its signatures."
    ),
    who=Who.SENDER,
    advice="Send the attachments in base64 and the text in quoted-printable.",
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
    explanation=(
        "The host announced its limit, so the message was not even sent. Attachments grow by about a "
        "third when they are mailed."
    ),
    who=Who.SENDER,
    advice="Send it in smaller parts, or put the files where the recipient can fetch them.",
)
BOUNCED_BY_OPERATOR = Cause(
    "delivery.bounced_by_operator",
    550,
    "5.7.0",
    "Returned by the operator of this server",
    (Stage.LOCAL,),
    "RFC 3464 2.3.3",
    "The operator sent the message back.",
    explanation="It was taken out of the queue on purpose, mostly because it could not be delivered any more.",
    who=Who.OPERATOR,
    advice="Ask the operator of this server.",
)
SUPPRESSED = Cause(
    "delivery.suppressed",
    550,
    "5.7.1",
    "Not tried: {entry} is on this server's suppression list since {since}, because {why}",
    (Stage.LOCAL,),
    "RFC 3463 3.8",
    "An earlier message to this address came back for good, so this one was not even tried.",
    explanation=(
        "Servers that keep sending to addresses which do not exist are taken for spammers, so an address that was refused "
        "for its own sake is left alone for a time."
    ),
    who=Who.SENDER,
    advice=(
        "Check the address. If it is right and works again, ask the operator of this server to take it off the list; "
        "a message that reaches it does that too."
    ),
    setting="suppression.enabled",
)
TOO_MANY_EXPANSIONS = Cause(
    "delivery.too_many_expansions",
    554,
    "5.4.6",
    "The aliases of this address form a loop",
    (Stage.LOCAL,),
    "RFC 5321 3.9",
    "The alias leads back to itself.",
    explanation=(
        "An alias leads to another, and that one back to the first, so there is no mailbox at the end."
    ),
    who=Who.OPERATOR,
    advice="The operator has to correct the aliases of the domain.",
    setting="domain.aliases",
)
MAILBOX_FAILED = Cause(
    "delivery.mailbox_failed",
    451,
    "4.3.0",
    "The mailbox could not be written: {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "Writing into the mailbox failed.",
    explanation="The file system refused to write.",
    who=Who.OPERATOR,
    advice="Wait; the operator should look at the mailbox's folder and its rights.",
    setting="domain.deliver",
)
MAILBOX_DISK_FULL = Cause(
    "delivery.mailbox_disk_full",
    452,
    "4.3.1",
    "No space to write into the mailbox",
    (Stage.LOCAL,),
    "RFC 3463 3.4",
    "The disk of the mailbox is full.",
    explanation="There was no room left to keep the message.",
    who=Who.OPERATOR,
    advice="Wait; the operator has to free space on the disk.",
    setting="domain.deliver",
)
MAILBOX_UNSAFE = Cause(
    "delivery.mailbox_unsafe",
    550,
    "5.1.3",
    "The address can't name a mailbox: {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.2",
    "The name can't be used safely in the file system.",
    explanation=(
        "The mailbox's folder would be named after the address, and this name has characters that could "
        "lead elsewhere."
    ),
    who=Who.SENDER,
    advice="Check the address. If it is right, the operator has to give it an alias.",
    setting="domain.deliver",
)
PROGRAM_UNSAFE = Cause(
    "delivery.program_unsafe",
    550,
    "5.1.3",
    "The program was not run: its {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.2",
    "An address can't be given to the program that takes mail.",
    explanation=(
        "The program is told addresses as its arguments. One that begins with a hyphen would be taken for an option, which "
        "could make the program do anything."
    ),
    who=Who.SENDER,
    advice="Use another address; the operator can write a word of the command's own in front of what is filled in.",
    setting="program.command",
)
PROGRAM_DEFERRED = Cause(
    "delivery.program_deferred",
    451,
    "4.3.0",
    "The program has not taken it ({ended}): {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "The delivery program asked to try again.",
    explanation="The program that takes mail for this address could not do its work this time.",
    who=Who.OPERATOR,
    advice="Wait; the operator should look at the program's own log.",
    setting="program",
)
PROGRAM_REFUSED = Cause(
    "delivery.program_refused",
    550,
    "5.3.0",
    "The program refused it with exit status {exit}: {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "The delivery program refused the message.",
    explanation="The program that takes mail for this address said no for good.",
    who=Who.RECIPIENT_ADMIN,
    advice="Read its words; if they do not help, ask the recipient's mail administrator.",
    setting="program",
)
PROGRAM_NO_USER = Cause(
    "delivery.program_no_user",
    550,
    "5.1.1",
    "The program knows no such user: {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.2",
    "The delivery program said there is no such user.",
    explanation="The program decides for itself which recipients exist.",
    who=Who.SENDER,
    advice="Check the address for typing errors.",
    setting="program",
)
PROGRAM_NOT_ALLOWED = Cause(
    "delivery.program_not_allowed",
    550,
    "5.7.1",
    "The program did not allow it: {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.8",
    "The delivery program said it is not permitted.",
    explanation="The program that takes mail for this address has a rule against this message.",
    who=Who.RECIPIENT_ADMIN,
    advice="Read its words; if they do not help, ask the recipient's mail administrator.",
    setting="program",
)
PROGRAM_TIMEOUT = Cause(
    "delivery.program_timeout",
    451,
    "4.3.0",
    "The program did not finish within {seconds} seconds",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "The delivery program was stopped because it took too long.",
    explanation="A program that hangs must not hold up the queue.",
    who=Who.OPERATOR,
    advice="Wait; the operator should find out why the program takes so long, or give it more time.",
    setting="program.limit",
)
WEBHOOK_DEFERRED = Cause(
    "delivery.webhook_deferred",
    451,
    "4.3.0",
    "The webhook failed: {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "The web service did not take the message this time.",
    explanation="The web service was not reached, or answered that it can't take the message now.",
    who=Who.OPERATOR,
    advice="Wait; the operator should look at the web service.",
    setting="webhook",
)
WEBHOOK_REFUSED = Cause(
    "delivery.webhook_refused",
    550,
    "5.3.0",
    "The webhook refused it: {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "The web service refused the message for good.",
    explanation="The web service that takes mail for this address said no for good.",
    who=Who.RECIPIENT_ADMIN,
    advice="Ask the recipient's mail administrator.",
    setting="webhook",
)
HANDLER_FAILED = Cause(
    "delivery.handler_failed",
    451,
    "4.3.0",
    "The handler failed; incident {incident}",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "The Python function for this address raised an error or took too long.",
    explanation="Only the operator of this server can mend it.",
    who=Who.OPERATOR,
    advice="Wait; the operator finds the error in the log by the incident number.",
    setting="domain.deliver",
)
DAMAGED = Cause(
    "delivery.damaged",
    451,
    "4.3.0",
    "The queued message is damaged and set aside: {detail}",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "The stored message can't be read.",
    explanation=(
        "What is stored does not agree with itself, so the disk may be failing. The message is set aside, "
        "and other mail goes on."
    ),
    who=Who.OPERATOR,
    advice="The operator should check the disk, and may restore the message from a backup.",
    setting="data",
)
ABANDONED = Cause(
    "delivery.abandoned",
    451,
    "4.3.2",
    "This server stopped during the attempt",
    (Stage.LOCAL,),
    "RFC 5321 3.8",
    "The attempt was broken off by a shutdown.",
    explanation="The message is still in the queue and goes on when the server is back.",
    who=Who.NOBODY,
    advice="Wait; it is tried again by itself.",
)
INTERNAL_ERROR = Cause(
    "delivery.internal_error",
    451,
    "4.3.0",
    "Internal error during the attempt; incident {incident}",
    (Stage.LOCAL,),
    "RFC 3463 3.3",
    "A bug in this server; the incident id finds the log line.",
    explanation="Something happened that the authors of this server did not foresee.",
    who=Who.OPERATOR,
    advice=("Wait; the operator finds the error in the log by the incident number, and should report it."),
)
