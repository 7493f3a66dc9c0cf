"""Causes around MAIL, RCPT, VRFY and EXPN.

What is said about the message itself is in `content`.
"""

from __future__ import annotations

from pillarbox.mail.reply import Cause, Stage, Who

SENDER_OK = Cause(
    "envelope.sender_ok",
    250,
    "2.1.0",
    "Sender OK",
    (Stage.MAIL,),
    "RFC 5321 3.3",
    "The reverse-path is accepted.",
    explanation="Reports about the message will go to this address.",
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
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
    explanation=(
        "The server will take mail for this address. It is responsible only after the 250 at the end of "
        "the message."
    ),
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
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
    explanation=(
        "The answer is the same for addresses that exist and for those that do not, so that nobody can "
        "collect addresses by asking."
    ),
    who=Who.NOBODY,
    advice="Send a message; that is the only test.",
    setting="policy.vrfy",
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
    explanation=(
        "MAIL takes an address in angle brackets with a domain, or <> for reports. The text says what is "
        "wrong with this one."
    ),
    who=Who.SENDER_ADMIN,
    advice="Correct the sender address in the sending program.",
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
    explanation="RCPT takes an address in angle brackets. The text says what is wrong with this one.",
    who=Who.SENDER,
    advice="Check the address for stray characters, and correct it.",
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
    explanation="The parameter is known, but not with this value. The text names it.",
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
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
    explanation=(
        "The answer to EHLO lists the extensions of this session; the parameter belongs to none of them."
    ),
    who=Who.SENDER_ADMIN,
    advice="Send without the parameter, or correct the sending program.",
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
    explanation=(
        "The client announced the size with SIZE, so the message need not even be sent to be refused. "
        "Attachments grow by about a third when they are mailed."
    ),
    who=Who.SENDER,
    advice="Send it in smaller parts, or put the files where the recipient can fetch them.",
    setting="limits.message",
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
    explanation=(
        "The server keeps some room on its disk so that accepted mail is never lost for lack of it."
    ),
    who=Who.OPERATOR,
    advice="Wait; the operator has to free space on the disk of the queue.",
    setting="limits.min_free",
    scenarios=("E452-1",),
)
QUEUE_FULL = Cause(
    "envelope.queue_full",
    452,
    "4.3.1",
    "Too many messages in the queue, try later",
    (Stage.MAIL,),
    "RFC 5321 4.2.2",
    "The queue holds as many messages as it may.",
    explanation="A limit keeps a flood, or a destination that is away for long, from filling the queue without end.",
    who=Who.OPERATOR,
    advice="Wait; the operator has to see why so much mail is in the queue.",
    setting="queue.max_messages",
    scenarios=("E452-6",),
)
STORE_BEHIND = Cause(
    "envelope.store_behind",
    452,
    "4.3.1",
    "Too much mail waits to be written, try later",
    (Stage.MAIL,),
    "RFC 5321 4.2.2",
    "Mail comes faster than the disk takes it.",
    explanation="What is not on the disk yet has to be kept in memory, and of that there is a limit.",
    who=Who.OPERATOR,
    advice="Wait; if it lasts, the operator has to see why the disk of the queue is slow.",
    scenarios=("E452-7",),
)
TOO_MANY_DOMAINS = Cause(
    "envelope.too_many_domains",
    452,
    "4.5.3",
    "Too many domains, send the rest in another transaction",
    (Stage.RCPT,),
    "RFC 9422 4.3",
    "The recipients of the transaction are of too many domains.",
    explanation=(
        "The recipients accepted before are not affected. The limit is announced as RCPTDOMAINMAX among the LIMITS."
    ),
    who=Who.NOBODY,
    advice="Send the rest in another transaction; a mail server does so by itself.",
    setting="limits.recipient_domains",
    scenarios=("E452-3",),
)
OVER_RECIPIENT_POLICY = Cause(
    "envelope.over_recipient_policy",
    503,
    "5.5.3",
    "No message to more than {limit} recipients is taken",
    (Stage.DATA, Stage.BDAT),
    "RFC 5321 4.5.3.1.10",
    "The message goes to more recipients than one message may.",
    explanation="The policy of this server forbids the whole message; none of its recipients gets it.",
    who=Who.SENDER,
    advice="Use a mailing list, or send to fewer people.",
    setting="limits.policy_recipients",
    scenarios=("E503-8",),
)
TOO_MANY_RECIPIENTS = Cause(
    "envelope.too_many_recipients",
    452,
    "4.5.3",
    "Too many recipients, send the rest in another transaction",
    (Stage.RCPT,),
    "RFC 5321 4.5.3.1.10",
    "The transaction reached its limit of recipients.",
    explanation=(
        "The recipients accepted before are not affected. The limit is announced as RCPTMAX among the LIMITS."
    ),
    who=Who.NOBODY,
    advice="Send to the others in another transaction; a mail server does so by itself, at once.",
    setting="limits.recipients",
    scenarios=("E452-2",),
)
HOOK_FAILED = Cause(
    "envelope.hook_failed",
    451,
    "4.3.0",
    "Policy check failed, try again; incident {incident}",
    (Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BODY),
    "RFC 5321 4.2.2",
    "A hook raised an error or took too long.",
    explanation=(
        "A check that the operator added did not come to a result. Mail is put off rather than let "
        "through unchecked."
    ),
    who=Who.OPERATOR,
    advice="Wait; the operator finds the error in the log by the incident number.",
    setting="hook.on_error",
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
    explanation=(
        "This server looks after the domain and knows all its mailboxes and aliases; the name in front of "
        "the @ sign is none of them."
    ),
    who=Who.SENDER,
    advice=("Check the address for typing errors, or ask the recipient in another way for the right one."),
    setting="domain.users",
    scenarios=("E550-1",),
)
RELAY_DENIED = Cause(
    "envelope.relay_denied",
    550,
    "5.7.1",
    "Relaying denied",
    (Stage.RCPT, Stage.VRFY, Stage.EXPN),
    "RFC 5321 3.6.2",
    "The domain is not ours and the client may not relay.",
    explanation=(
        "The server takes mail for its own domains from everybody, and for other domains only from those "
        "it knows, or spammers would use it."
    ),
    who=Who.SENDER_ADMIN,
    advice=(
        "Log in first, or send through the server of your own provider. If the domain should be served "
        "here, the operator has to add it."
    ),
    setting="policy.relay_networks",
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
    explanation="A rule that the operator added to this server refuses it, mostly with words of its own.",
    who=Who.SENDER_ADMIN,
    advice="Read the words; if they do not help, ask the operator of this server.",
    setting="hooks",
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
    explanation=(
        "Addresses such as user%host@domain once told servers the way. Today only those use it who look "
        "for open relays."
    ),
    who=Who.SENDER_ADMIN,
    advice="Use the plain address.",
    scenarios=("E553-1",),
)
FOREIGN_LITERAL = Cause(
    "envelope.foreign_literal",
    553,
    "5.1.3",
    "Addresses at foreign IP addresses are not accepted",
    (Stage.RCPT, Stage.VRFY, Stage.EXPN),
    "RFC 5321 4.1.3",
    "The recipient's domain is an IP address that is not ours.",
    explanation=(
        "An address such as user@[192.0.2.1] names a host by its number. Mail for other hosts is taken only "
        "from those who may relay."
    ),
    who=Who.SENDER_ADMIN,
    advice="Use an address with a domain name.",
    setting="policy.relay_networks",
    scenarios=("E553-1",),
)
FORWARD_FORGED = Cause(
    "envelope.forward_forged",
    550,
    "5.1.1",
    "No such address: it looks like one of a forwarded message, but was not made here",
    (Stage.RCPT, Stage.VRFY),
    "RFC 5321 3.4",
    "An address of the form SRS0=... or SRS1=... whose hash is wrong.",
    explanation=(
        "Mail that is forwarded gets such a sender, so that bounces come back here and are sent on to the real "
        "sender. The hash in it is made with a key of this server; one that fits no key was made up, damaged on the "
        "way, or made with a key that is no longer kept."
    ),
    who=Who.SENDER,
    advice="Write to the person's own address. Nobody but a mail server that returns a message needs this form.",
    setting="srs.rewrite",
    scenarios=("E550-22",),
)
FORWARD_EXPIRED = Cause(
    "envelope.forward_expired",
    550,
    "5.1.6",
    "This address of a forwarded message has expired",
    (Stage.RCPT, Stage.VRFY),
    "RFC 5321 3.4",
    "An address of the form SRS0=... that was made here, but too long ago.",
    explanation=(
        "Such addresses are made for the bounces of one forwarded message and hold for three weeks, so that those who "
        "collect them can't use them."
    ),
    who=Who.SENDER,
    advice="Write to the person's own address. A bounce that comes this late is of no use to anybody.",
    setting="srs.rewrite",
    scenarios=("E550-23",),
)
SENDER_NOT_OWNED = Cause(
    "envelope.sender_not_owned",
    553,
    "5.7.1",
    "This login may not use this sender address",
    (Stage.MAIL,),
    "RFC 6409 6.1",
    "The account does not own the reverse-path.",
    explanation="Each account may send only from addresses that were given to it.",
    who=Who.SENDER,
    advice=(
        "Set the sender address of the account in the mail program, or ask the operator to allow this one."
    ),
    setting="account.senders",
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
    explanation=(
        "Addresses with letters beyond ASCII may be used only in messages that are marked with SMTPUTF8, "
        "so that each host on the way knows."
    ),
    who=Who.SENDER_ADMIN,
    advice="Use a mail program that supports international addresses.",
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
    explanation="The operator marked the domain as one that never takes mail.",
    who=Who.SENDER,
    advice="Check the part of the address after the @ sign.",
    setting="domain.no_mail",
    scenarios=("E556-2",),
)
