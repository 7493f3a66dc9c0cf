"""Causes around one mailbox or list of ours: its state, its room, where its owner went, and what VRFY tells of it.

What is said about addresses in general is in `envelope`.
"""

from __future__ import annotations

from pillarbox.mail.reply import Cause, Stage, Who

VERIFIED = Cause(
    "mailbox.verified",
    250,
    "2.1.5",
    "{address}",
    (Stage.VRFY, Stage.EXPN),
    "RFC 5321 3.5.2",
    "The address exists, or these are the members of the list.",
    explanation="The server is set up to answer such questions for this client, and it looked the name up.",
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    setting="policy.vrfy",
    scenarios=("E250-7",),
)
WILL_FORWARD = Cause(
    "mailbox.will_forward",
    251,
    "2.1.5",
    "User not local; will forward to <{address}>",
    (Stage.RCPT, Stage.VRFY),
    "RFC 5321 3.4",
    "Mail for the user is taken and sent on to another address, which the text names.",
    explanation=(
        "It is an acceptance like 250. The address is told so that the sender can use it from now on; the "
        "message itself is forwarded by this server."
    ),
    who=Who.NOBODY,
    advice="Nothing needs to be done; the sender may note the new address.",
    setting="domain.forward.reveal",
    scenarios=("E251-1", "E251-2"),
)
NEEDS_UTF8_ANSWER = Cause(
    "mailbox.needs_utf8_answer",
    252,
    "2.6.8",
    "The answer needs SMTPUTF8; will take mail and try to deliver it",
    (Stage.VRFY, Stage.EXPN),
    "RFC 6531 3.7.4.2",
    "The answer has letters beyond ASCII, and the client did not say that it takes them.",
    explanation="A client that can read such answers puts the parameter SMTPUTF8 behind the address.",
    who=Who.NOBODY,
    advice="Ask again with the parameter SMTPUTF8.",
    setting="policy.vrfy",
    scenarios=("E252-3",),
)
LOCKED = Cause(
    "mailbox.locked",
    450,
    "4.2.0",
    "Mailbox is locked for a while, try again later",
    (Stage.RCPT, Stage.VRFY, Stage.LOCAL),
    "RFC 5321 4.2.2",
    "The mailbox is being moved or repaired.",
    explanation="The operator has locked it for the time of the work. Nothing is lost: the mail waits at the sending server.",
    who=Who.OPERATOR,
    advice="Wait; a mail server tries again by itself.",
    setting="domain.user.state",
    scenarios=("E450-1",),
)
PAUSED = Cause(
    "mailbox.paused",
    450,
    "4.2.1",
    "Mailbox takes no mail for the time being",
    (Stage.RCPT, Stage.VRFY, Stage.LOCAL),
    "RFC 5321 4.2.2",
    "The account is paused.",
    explanation="The account exists and will take mail again, but not now.",
    who=Who.OPERATOR,
    advice="Wait, or reach the recipient in another way.",
    setting="domain.user.state",
    scenarios=("E450-2",),
)
DISABLED = Cause(
    "mailbox.disabled",
    550,
    "5.2.1",
    "Mailbox is disabled",
    (Stage.RCPT, Stage.VRFY, Stage.LOCAL),
    "RFC 3463 3.3",
    "The account is switched off.",
    explanation="The mailbox exists but takes no mail any more.",
    who=Who.RECIPIENT,
    advice="Reach the recipient in another way.",
    setting="domain.user.state",
    scenarios=("E550-2",),
)
LEFT = Cause(
    "mailbox.left",
    550,
    "5.1.6",
    "The user is no longer here",
    (Stage.RCPT, Stage.VRFY, Stage.LOCAL),
    "RFC 3463 3.2",
    "The address was good once; its owner left, and no new address is told.",
    explanation="The operator knows the name and says that nobody reads mail under it any more.",
    who=Who.SENDER,
    advice="Take the address off your lists.",
    setting="domain.user.state",
    scenarios=("E550-6",),
)
LIST_CLOSED = Cause(
    "mailbox.list_closed",
    550,
    "5.7.2",
    "This list is closed to you",
    (Stage.RCPT, Stage.EXPN),
    "RFC 3463 3.8",
    "Not everybody may write to this list, or see its members.",
    explanation="The operator decides who may use the list: its members, users who log in, or certain addresses.",
    who=Who.SENDER,
    advice="Ask a member to pass the message on, or the operator for permission.",
    setting="domain.list.senders",
    scenarios=("E550-4",),
)
MOVED = Cause(
    "mailbox.moved",
    551,
    "5.1.6",
    "User not local; please try <{address}>",
    (Stage.RCPT, Stage.VRFY),
    "RFC 5321 3.4",
    "The user has moved to the address in the text, and mail is not forwarded.",
    explanation="The owner wants senders to use the new address.",
    who=Who.SENDER,
    advice="Send it again to the new address, if you know it to be right.",
    setting="domain.moved.mode",
    scenarios=("E551-1", "E551-2"),
)
MESSAGE_TOO_BIG = Cause(
    "mailbox.message_too_big",
    552,
    "5.2.3",
    "Message is over this mailbox's limit of {limit} octets",
    (Stage.RCPT, Stage.BODY, Stage.LOCAL),
    "RFC 3463 3.3",
    "The message is bigger than this recipient takes.",
    explanation="The limit is the mailbox's own; others at this server may take the message.",
    who=Who.SENDER,
    advice="Send it in smaller parts, or put the files where the recipient can fetch them.",
    setting="domain.max_message",
    scenarios=("E552-4",),
)
AMBIGUOUS = Cause(
    "mailbox.ambiguous",
    553,
    "5.1.4",
    "The name fits several mailboxes; say which, with its domain",
    (Stage.VRFY, Stage.EXPN),
    "RFC 5321 3.5.1",
    "The name without a domain exists in several of our domains.",
    explanation="VRFY was given a bare name, and more than one mailbox has it.",
    who=Who.SENDER,
    advice="Ask with the complete address.",
    setting="policy.vrfy",
    scenarios=("E553-5",),
)
FULL_FOR_NOW = Cause(
    "mailbox.full_for_now",
    452,
    "4.2.2",
    "Mailbox is full, try again later",
    (Stage.RCPT, Stage.BODY, Stage.LOCAL),
    "RFC 5321 4.2.2",
    "The message does not fit into the mailbox, whose owner still has time to make room.",
    explanation="The mailbox reached its quota not long ago. The sending server keeps the message and tries again.",
    who=Who.RECIPIENT,
    advice="Wait; the recipient has to delete something.",
    setting="domain.quota.overflow",
    scenarios=("E452-4",),
)
FULL = Cause(
    "mailbox.full",
    552,
    "5.2.2",
    "Mailbox is full",
    (Stage.RCPT, Stage.BODY, Stage.LOCAL),
    "RFC 5321 4.2.2",
    "The message does not fit into the mailbox, and no time is left to make room.",
    explanation="The mailbox has reached its quota, and the time that its owner had to make room is over, or none was given.",
    who=Who.RECIPIENT,
    advice="Tell the recipient in another way that the mailbox is full.",
    setting="domain.quota.overflow",
    scenarios=("E552-5",),
)
TOO_FREQUENT = Cause(
    "mailbox.too_frequent",
    450,
    "4.2.1",
    "Mailbox receives mail too quickly, try again in {seconds} seconds",
    (Stage.RCPT,),
    "RFC 5321 4.2.2",
    "More messages than allowed came for this mailbox in a short time.",
    explanation="A limit protects mailboxes from being flooded. It counts the messages of all senders together.",
    who=Who.NOBODY,
    advice="Wait; a mail server tries again by itself.",
    setting="domain.rate",
    scenarios=("E450-4",),
)
NEXT_HOP_SILENT = Cause(
    "mailbox.next_hop_silent",
    450,
    "4.4.1",
    "The recipient cannot be checked now: {detail}",
    (Stage.RCPT,),
    "RFC 5321 4.2.2",
    "The host that has the mailbox did not say whether it exists.",
    explanation=(
        "This server passes mail for the domain on to another host, and asks it about each recipient first. "
        "That host could not be reached, or put the answer off."
    ),
    who=Who.RECIPIENT_ADMIN,
    advice="Wait; a mail server tries again by itself.",
    setting="domain.verify_recipients",
    scenarios=("E450-5",),
)
DIRECTORY_DOWN = Cause(
    "mailbox.directory_down",
    451,
    "4.4.3",
    "The list of mailboxes cannot be read now, try again later",
    (Stage.RCPT, Stage.VRFY, Stage.EXPN),
    "RFC 5321 4.2.2",
    "The directory that knows the mailboxes is down.",
    explanation=(
        "The mailboxes of this domain are listed in a file, a database or a directory service that cannot be asked "
        "now. So the server can't tell whether the mailbox exists, and neither takes nor refuses the mail for good."
    ),
    who=Who.OPERATOR,
    advice="Wait; the operator has to make the directory readable again.",
    setting="domain.users_file",
    scenarios=("E451-2",),
)
MAP_BROKEN = Cause(
    "mailbox.map_broken",
    451,
    "4.3.5",
    "A list of aliases is broken, try again later",
    (Stage.RCPT, Stage.VRFY, Stage.EXPN),
    "RFC 5321 4.2.2",
    "The file with the aliases cannot be read, or what an alias stands for is not well formed.",
    explanation="While it is broken the server cannot know where the mail goes. The log says what is wrong, and where.",
    who=Who.OPERATOR,
    advice="Wait; the operator has to correct the file.",
    setting="domain.aliases_file",
    scenarios=("E451-5",),
)
NULL_MX = Cause(
    "mailbox.null_mx",
    556,
    "5.1.10",
    "Domain {domain} accepts no mail (null MX)",
    (Stage.RCPT,),
    "RFC 7505 4.2",
    "The domain of the recipient publishes that it takes no mail.",
    explanation="The only mail exchanger of the domain is the empty name, which says that it has none.",
    who=Who.SENDER,
    advice="Check the part of the address after the @ sign.",
    setting="recipient.check_domains",
    scenarios=("E556-1",),
)
DOMAIN_LOOKUP_FAILED = Cause(
    "mailbox.domain_lookup_failed",
    451,
    "4.4.3",
    "Looking up {domain} failed, try again later",
    (Stage.RCPT,),
    "RFC 5321 4.2.2",
    "DNS gave no usable answer about the recipient's domain.",
    explanation="Whether the domain takes mail at all has to be asked in DNS, and nobody answered.",
    who=Who.OPERATOR,
    advice="Wait; if it lasts, the operator should look at the resolver.",
    setting="recipient.check_domains",
    scenarios=("E451-2",),
)
