"""Causes of the checks that keep unwanted clients, senders and messages out, and of hooks that end a session.

Who may relay and which mailboxes exist is in `envelope`.
"""

from __future__ import annotations

from pillarbox.mail.reply import Cause, Stage, Who

DISCONNECTED = Cause(
    "policy.disconnected",
    421,
    "4.3.0",
    "Closing the connection",
    (Stage.ANY,),
    "RFC 5321 3.8",
    "A hook of the operator ends the session.",
    explanation="A rule that the operator added to this server does not want this session to go on.",
    who=Who.SENDER_ADMIN,
    advice="Try again later; if it goes on, ask the operator of this server.",
    setting="hooks",
    scenarios=("E421-10",),
)
CLIENT_NOT_NOW = Cause(
    "policy.client_not_now",
    421,
    "4.7.0",
    "No service for your address now",
    (Stage.GREETING,),
    "RFC 5321 3.8",
    "A check refuses the client, but is set to defer.",
    explanation="A check of the client's address found something. The operator chose to put such clients off instead of refusing them.",
    who=Who.SENDER_ADMIN,
    advice="The text says what was found; correct it before the mail is given up.",
    scenarios=("E421-20",),
)
NOT_NOW = Cause(
    "policy.not_now",
    450,
    "4.7.1",
    "Refused for now",
    (Stage.HELLO, Stage.MAIL, Stage.RCPT, Stage.BODY),
    "RFC 5321 4.2.2",
    "A check refuses the mail, but is set to defer.",
    explanation="A check found something. The operator chose to put such mail off instead of refusing it.",
    who=Who.SENDER_ADMIN,
    advice="The text says what was found; correct it before the mail is given up.",
    scenarios=("E450-20",),
)
SENDER_DOMAIN_UNCLEAR = Cause(
    "policy.sender_domain_unclear",
    450,
    "4.1.8",
    "Cannot look up the sender's domain {domain} now: {detail}",
    (Stage.MAIL,),
    "RFC 5321 3.6.2",
    "DNS gives no answer about the sender's domain.",
    explanation=(
        "Reports about a message go to its sender, so the domain must exist and take mail. Its name servers gave no usable "
        "answer, and that is no proof of anything."
    ),
    who=Who.SENDER_ADMIN,
    advice="Wait; if it goes on, check the name servers of the sender's domain.",
    setting="sender.domain",
    scenarios=("E450-6",),
)
SENDER_DOMAIN_MISSING = Cause(
    "policy.sender_domain_missing",
    550,
    "5.1.8",
    "The sender's domain {domain} does not exist or takes no mail",
    (Stage.MAIL,),
    "RFC 5321 3.6.2",
    "DNS knows no way to send mail to the sender's domain.",
    explanation=(
        "Reports about a message go to its sender. DNS says that the domain does not exist, or has neither mail "
        "exchangers nor addresses."
    ),
    who=Who.SENDER_ADMIN,
    advice="Use a sender address whose domain exists, or publish an MX record for it.",
    setting="sender.domain",
    scenarios=("E550-10",),
)
SENDER_TAKES_NO_MAIL = Cause(
    "policy.sender_takes_no_mail",
    550,
    "5.7.27",
    "The sender's domain {domain} says that it takes no mail",
    (Stage.MAIL,),
    "RFC 7505 4.2",
    "The sender's domain has a null MX, so no report could reach it.",
    explanation="A domain with the single MX record '0 .' never takes mail. Honest mail does not come from there.",
    who=Who.SENDER_ADMIN,
    advice="Use a sender address whose domain takes mail, or remove the null MX record.",
    setting="sender.domain",
    scenarios=("E550-9",),
)
SENDER_DOMAIN_RESERVED = Cause(
    "policy.sender_domain_reserved",
    553,
    "5.1.7",
    "The sender's domain {domain} is no domain of the Internet",
    (Stage.MAIL,),
    "RFC 5321 2.3.5",
    "The sender's domain has no dot, or is one that nobody can own.",
    explanation="Names such as localhost or printer.invalid mean something inside one network at most; no report could reach them.",
    who=Who.SENDER_ADMIN,
    advice="Give the sending program a full sender address.",
    setting="sender.domain",
    scenarios=("E553-2",),
)
SENDER_DENIED = Cause(
    "policy.sender_denied",
    550,
    "5.7.1",
    "Mail from this sender is not accepted",
    (Stage.MAIL,),
    "RFC 5321 4.2.2",
    "The operator listed this sender.",
    explanation="The address or its domain is on a list of senders that this server refuses.",
    who=Who.SENDER_ADMIN,
    advice="Ask the operator of this server.",
    setting="sender.deny",
    scenarios=("E550-7",),
)
HELLO_NOT_QUALIFIED = Cause(
    "policy.hello_not_qualified",
    504,
    "5.5.4",
    "A full host name or an address literal is wanted here",
    (Stage.HELLO,),
    "RFC 5321 2.3.5",
    "The name in EHLO has no dot.",
    explanation="Mail servers introduce themselves by a full name. A bare one is usual for programs that send spam from a home.",
    who=Who.SENDER_ADMIN,
    advice="Give the client a full host name of its own.",
    setting="helo.require_fqdn",
    scenarios=("E504-3",),
)
HELLO_DENIED = Cause(
    "policy.hello_denied",
    550,
    "5.7.1",
    "The name {name} is not welcome here",
    (Stage.HELLO,),
    "RFC 5321 4.1.4",
    "The operator listed the name that the client gave in EHLO.",
    explanation="The name in EHLO is on a list of names that this server refuses; often it is the server's own name, used by others.",
    who=Who.SENDER_ADMIN,
    advice="Give the client its own host name, or ask the operator of this server.",
    setting="helo.deny",
    scenarios=("E550-12",),
)
REVERSE_NAME_UNCLEAR = Cause(
    "policy.reverse_name_unclear",
    450,
    "4.7.25",
    "Cannot look up the name of {address} now: {detail}",
    (Stage.RCPT,),
    "RFC 7372 3.3",
    "DNS gives no answer about the name of the client's address.",
    explanation="The server looks up the name of each host that sends mail. DNS gave no answer, and that is no proof of anything.",
    who=Who.SENDER_ADMIN,
    advice="Wait; if it goes on, check the name servers of the address's reverse zone.",
    setting="reverse_dns.action",
    scenarios=("E450-8",),
)
REVERSE_NAME_MISSING = Cause(
    "policy.reverse_name_missing",
    550,
    "5.7.25",
    "The address {address} has no proper name in DNS: {detail}",
    (Stage.RCPT,),
    "RFC 7372 3.3",
    "The client's address has no name, or one that does not lead back.",
    explanation=(
        "Hosts that are meant to send mail have a PTR record with a name, and the name has that address. Hosts that lack "
        "it are mostly hijacked home computers."
    ),
    who=Who.SENDER_ADMIN,
    advice="Ask the provider of the address for a PTR record, and let the name point back to the address.",
    setting="reverse_dns.action",
    scenarios=("E550-11",),
)
NO_RESOURCES = Cause(
    "policy.no_resources",
    421,
    "4.3.1",
    "{hostname} is short of {what}, try again later",
    (Stage.GREETING,),
    "RFC 5321 3.8",
    "The machine is nearly out of disk space or memory.",
    explanation="The server takes no more work while too little disk space or memory is left, so that what it has accepted stays safe.",
    who=Who.OPERATOR,
    advice="Wait; the operator has to free disk space or memory.",
    setting="emergency.min_disk",
    scenarios=("E421-8",),
)
CONGESTED = Cause(
    "policy.congested",
    421,
    "4.4.5",
    "{hostname} is overloaded, try again later",
    (Stage.GREETING,),
    "RFC 5321 3.8",
    "The machine has more to do than it can cope with.",
    explanation="The load of the machine is over the limit that the operator set, so new sessions have to wait.",
    who=Who.OPERATOR,
    advice="Wait; a mail server tries again by itself.",
    setting="emergency.max_load",
    scenarios=("E421-8",),
)
CLIENT_LISTED = Cause(
    "policy.client_listed",
    554,
    "5.7.1",
    "{hostname} no service for {address}, listed by {zones}",
    (Stage.GREETING,),
    "RFC 5782 2.1",
    "Lists in DNS have the client's address among the bad ones.",
    explanation=(
        "The address of the client is on lists of hosts that send spam, or that should not send mail at all. "
        "The text names them; what they say was weighed as the operator decided."
    ),
    who=Who.SENDER_ADMIN,
    advice="Look the address up on the page of the list, remove the reason, and ask the list to take it off.",
    setting="dns_lists.reject_at",
    scenarios=("E554-1",),
)
TOO_MUCH = Cause(
    "policy.too_much",
    450,
    "4.7.1",
    "{who} may send {rate}, try again in {seconds} seconds",
    (Stage.MAIL, Stage.RCPT),
    "RFC 5321 4.2.2",
    "A network, a sender or an account sent more than its share.",
    explanation="The server counts what each network, sender or account sends. The text says how much is allowed, and when there will be room again.",
    who=Who.SENDER,
    advice="Wait, and send more slowly. An account that sends more than its owner knows of may be stolen.",
    setting="rate.client",
    scenarios=("E450-21",),
)
FLOOD = Cause(
    "policy.flood",
    550,
    "5.7.28",
    "Mail flood: {network} sent more than {rate}",
    (Stage.MAIL,),
    "RFC 5321 4.2.2",
    "One network sends so much that it must be abuse.",
    explanation="The messages of a network of strangers are counted, refused ones too. So many of them in so short a time are a flood.",
    who=Who.SENDER_ADMIN,
    advice="Find out what sends so much, and stop it.",
    setting="rate.flood",
    scenarios=("E550-17",),
)
HARVESTER = Cause(
    "policy.harvester",
    550,
    "5.7.1",
    "Too many recipients that do not exist were named from {network}; it is refused for {seconds} seconds",
    (Stage.RCPT,),
    "RFC 5321 4.2.2",
    "A network tries which recipients exist.",
    explanation=(
        "Programs that collect addresses try one name after the other and note which are taken. The network that did so "
        "is refused for a while, whoever the recipient is."
    ),
    who=Who.SENDER_ADMIN,
    advice="Clean the list of recipients; remove every address that was refused as unknown.",
    setting="harvest.limit",
    scenarios=("E550-24",),
)
TOO_OFTEN = Cause(
    "policy.too_often",
    421,
    "4.7.0",
    "{hostname} {network} may connect {rate}, try again in {seconds} seconds",
    (Stage.GREETING,),
    "RFC 5321 3.8",
    "A network connects more often than it may.",
    explanation="The server counts how often each network of strangers connects. The text says how often it may, and when it may again.",
    who=Who.SENDER_ADMIN,
    advice="Send several messages in one session, and wait between sessions.",
    setting="rate.connections",
    scenarios=("E421-21",),
)
GREYLISTED = Cause(
    "policy.greylisted",
    450,
    "4.7.1",
    "Greylisted, try again in {seconds} seconds",
    (Stage.RCPT,),
    "RFC 6647 2.2",
    "Mail from this network, sender and recipient was not seen before.",
    explanation=(
        "Mail servers try again after a while; most programs that send spam do not. So mail from unknown senders is put "
        "off once, and accepted when it comes again from the same network with the same envelope."
    ),
    who=Who.NOBODY,
    advice="Nothing needs to be done; the sending server tries again by itself.",
    setting="greylist.delay",
    scenarios=("E450-3",),
)
EARLY_TALKER = Cause(
    "policy.early_talker",
    554,
    "5.5.0",
    "You spoke before the end of the greeting",
    (Stage.ANY,),
    "RFC 5321 4.3.1",
    "The client did not wait for the greeting.",
    explanation="A client has to read the whole greeting before it says anything. Programs that send spam often do not bother.",
    who=Who.SENDER_ADMIN,
    advice="Correct the sending program: it has to wait for the line that begins with '220' and a space.",
    setting="greet.early_talker",
    scenarios=("E554-7",),
)
PIPELINED = Cause(
    "policy.pipelined",
    554,
    "5.5.0",
    "Wait for the answer to this command before you send more",
    (Stage.HELLO, Stage.MAIL, Stage.DATA),
    "RFC 2920 3.1",
    "The client sent more where it has to wait for an answer.",
    explanation=(
        "After EHLO and DATA, and always in a session without extensions, a client has to wait for the answer. "
        "Programs that send spam often do not bother."
    ),
    who=Who.SENDER_ADMIN,
    advice="Correct the sending program: commands may be sent in groups only as RFC 2920 says.",
    setting="greet.strict_pipelining",
    scenarios=("E554-7",),
)
MALFORMED = Cause(
    "policy.malformed",
    554,
    "5.6.0",
    "The message is malformed: {detail}",
    (Stage.BODY,),
    "RFC 5322 3.6",
    "The message is not written as the standard wants it.",
    explanation="Every message names its author in exactly one From field, and its lines have at most 998 octets. The text says what is wrong.",
    who=Who.SENDER_ADMIN,
    advice="Correct the program that wrote the message.",
    setting="message.strict",
    scenarios=("E554-4",),
)
ATTACHMENT_DENIED = Cause(
    "policy.attachment_denied",
    554,
    "5.7.1",
    "Attachments such as {name} are not accepted",
    (Stage.BODY,),
    "RFC 5321 4.2.5",
    "The message has an attachment with a name that is not accepted.",
    explanation="Files with certain endings are mostly programs, and mail is how they get into other people's computers.",
    who=Who.SENDER,
    advice="Put the file where the recipient can fetch it, and send the address instead.",
    setting="attachments.deny",
    scenarios=("E554-5",),
)
VIRUS_FOUND = Cause(
    "policy.virus_found",
    554,
    "5.7.1",
    "The message contains {name}",
    (Stage.BODY,),
    "RFC 5321 4.2.5",
    "A scanner found a virus in the message.",
    explanation="A program that looks for viruses found one in the message, or something that looks like it. The text has its name.",
    who=Who.SENDER,
    advice="Check the computer from which the message came.",
    setting="scanner.clamd",
    scenarios=("E554-5",),
)
SCANNER_DOWN = Cause(
    "policy.scanner_down",
    451,
    "4.3.0",
    "The message cannot be scanned now, try again later",
    (Stage.BODY,),
    "RFC 5321 4.2.2",
    "A scanner gives no verdict.",
    explanation="Each message is scanned here, and the program that does it is down or too slow. Mail is put off rather than let through unscanned.",
    who=Who.OPERATOR,
    advice="Wait; the operator has to look after the scanner.",
    setting="scanner.fail",
    scenarios=("E451-6",),
)
SPAM = Cause(
    "policy.spam",
    550,
    "5.7.1",
    "The message looks like spam: {points} points, {limit} are too many ({reason})",
    (Stage.BODY,),
    "RFC 5321 4.2.2",
    "Hooks and scanners gave the message too high a score.",
    explanation="Programs look at each message and give points for what is usual in spam. The sum of the points was too high.",
    who=Who.SENDER_ADMIN,
    advice="Read the reason; if the message is no spam, ask the operator of this server.",
    setting="spam.reject_at",
    scenarios=("E550-16",),
)
