"""Causes around the extensions that change a message's way: deadlines, holding, priorities, owners, ETRN.

What is said of parameters that can't be read or are not offered is in `envelope`.
"""

from __future__ import annotations

from pillarbox.mail.reply import Cause, Stage, Who

SUSPENDED = Cause(
    "extensions.suspended",
    455,
    "4.5.4",
    "Parameter {detail} can't be taken just now",
    (Stage.MAIL, Stage.RCPT),
    "RFC 5321 4.1.1.11",
    "An extension that was on offer is suspended.",
    explanation=(
        "The answer to EHLO in this session listed the extension, and the operator has suspended it since. "
        "It may be offered again later, or never."
    ),
    who=Who.NOBODY,
    advice="Wait, or send without the parameter if it may be left out.",
    setting="extensions.smtputf8",
    scenarios=("E455-3",),
)
BELOW_MINIMUM = Cause(
    "extensions.below_minimum",
    555,
    "5.5.4",
    "BY={seconds};R is below the minimum of {minimum} seconds",
    (Stage.MAIL,),
    "RFC 2852 4",
    "The time to deliver in is shorter than this server takes on.",
    explanation="The answer to EHLO names the shortest time behind DELIVERBY.",
    who=Who.SENDER,
    advice="Allow more time, or ask to be notified (BY=...;N) instead.",
    setting="extensions.deliverby_min",
    scenarios=("E555-2",),
)
TOO_BUSY_FOR_DEADLINE = Cause(
    "extensions.too_busy_for_deadline",
    455,
    "4.5.4",
    "Mail waits about {delay} seconds here at present, BY={seconds};R can't be kept",
    (Stage.MAIL,),
    "RFC 2852 4",
    "The queue is too busy to deliver in the time asked for.",
    explanation=(
        "The server knows how long mail waits for its turn at present. It would have to return the message, "
        "so it does not take it."
    ),
    who=Who.NOBODY,
    advice="Try again later, or allow more time.",
    setting="extensions.deliverby",
    scenarios=("E455-1",),
)
HOLD_TOO_LONG = Cause(
    "extensions.hold_too_long",
    501,
    "5.5.4",
    "Parameter {detail} is beyond the limit of {limit} seconds",
    (Stage.MAIL,),
    "RFC 4865 4",
    "The message was to be held longer than this server holds any.",
    explanation="The answer to EHLO names the longest time and the last moment behind FUTURERELEASE.",
    who=Who.SENDER,
    advice="Choose an earlier time.",
    setting="extensions.futurerelease_max",
    scenarios=("E501-4",),
)
HOLD_NOT_NOW = Cause(
    "extensions.hold_not_now",
    455,
    "4.5.4",
    "No message can be held just now: the queue can't be written",
    (Stage.MAIL,),
    "RFC 4865 4",
    "The store of the queue can be read only.",
    explanation="A message that is to be held has to be kept safe until it is due, and that is not possible now.",
    who=Who.OPERATOR,
    advice="Try again later; the operator has to look at the disk of the queue.",
    setting="data",
    scenarios=("E455-2",),
)
PRIORITY_CHANGED = Cause(
    "extensions.priority_changed",
    250,
    "2.3.6",
    "{priority} is the new priority of the message",
    (Stage.MAIL,),
    "RFC 6710 4.1",
    "The reverse-path is accepted; the priority was lowered.",
    explanation="Not everybody may send mail that goes before that of others.",
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    setting="extensions.raise_priority",
    scenarios=("E250-2",),
)
PRIORITY_TOO_LOW = Cause(
    "extensions.priority_too_low",
    450,
    "4.7.15",
    "Mail of a priority below {lowest} is not taken just now",
    (Stage.MAIL,),
    "RFC 6710 4.1",
    "The queue is busy, and the message can wait.",
    explanation="While mail waits long for its turn, only messages of some priority are taken.",
    who=Who.NOBODY,
    advice="Wait; a mail server tries again by itself.",
    setting="extensions.busy_priority",
    scenarios=("E450-7",),
)
TOO_BIG_FOR_PRIORITY = Cause(
    "extensions.too_big_for_priority",
    552,
    "5.7.16",
    "Message is over the limit of {limit} octets for its priority",
    (Stage.MAIL, Stage.BODY, Stage.BDAT),
    "RFC 6710 4.1",
    "Urgent messages have to be small.",
    explanation="A large message that goes before others would hold them up.",
    who=Who.SENDER,
    advice="Send it with the usual priority, or without its attachments.",
    setting="extensions.urgent",
    scenarios=("E552-6",),
)
OWNER_CHANGED = Cause(
    "extensions.owner_changed",
    550,
    "5.7.17",
    "The mailbox has had another owner since the time given",
    (Stage.RCPT, Stage.BODY),
    "RFC 7293 5.2",
    "The address belongs to somebody else by now.",
    explanation=(
        "The mail is meant only for whoever had the address at a given time. The mailbox was made later, "
        "so its owner may be a stranger to the sender."
    ),
    who=Who.SENDER,
    advice="Ask the person for a new address in another way; do not send private mail to this one.",
    setting="domain.user.since",
    scenarios=("E550-5",),
)
DOMAIN_CHANGED = Cause(
    "extensions.domain_changed",
    550,
    "5.7.18",
    "The domain has had another owner since the time given",
    (Stage.RCPT, Stage.BODY),
    "RFC 7293 5.2",
    "The domain belongs to somebody else by now.",
    explanation=(
        "The mail is meant only for whoever had the address at a given time. The domain has changed hands since."
    ),
    who=Who.SENDER,
    advice="Ask the person for a new address in another way; do not send private mail to this one.",
    setting="domain.since",
    scenarios=("E550-5",),
)
MESSAGES_STARTED = Cause(
    "extensions.messages_started",
    253,
    "2.5.0",
    "OK, {count} pending messages for node {node} started",
    (Stage.ETRN,),
    "RFC 1985 5",
    "The messages that wait are sent now; the text says how many.",
    explanation="The node asked for the mail that waits for it, and its delivery has begun.",
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    setting="etrn.allow",
    scenarios=("E253-1",),
)
PENDING_STARTED = Cause(
    "extensions.pending_started",
    252,
    "2.5.0",
    "OK, pending messages for node {node} started",
    (Stage.ETRN,),
    "RFC 1985 5",
    "Many messages are sent now.",
    explanation="The node asked for the mail that waits for it. There is so much that it was not counted.",
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    setting="etrn.allow",
    scenarios=("E252-3",),
)
NODE_STARTED = Cause(
    "extensions.node_started",
    250,
    "2.5.0",
    "Queuing for node @{node} started",
    (Stage.ETRN,),
    "RFC 1985 5",
    "Whatever waits for the node and those below it is sent now.",
    explanation="The mail of a whole tree of domains was asked for. It is not counted before it is sent.",
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    setting="etrn.allow",
    scenarios=("E250-8",),
)
NOTHING_PENDING = Cause(
    "extensions.nothing_pending",
    251,
    "2.5.0",
    "OK, no messages waiting for node {node}",
    (Stage.ETRN,),
    "RFC 1985 5",
    "Nothing waits for the node.",
    explanation="The node asked for the mail that waits for it, and there is none.",
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    setting="etrn.allow",
    scenarios=("E251-3",),
)
QUEUE_BUSY = Cause(
    "extensions.queue_busy",
    458,
    "4.5.0",
    "Unable to queue messages for node {node}",
    (Stage.ETRN,),
    "RFC 1985 5",
    "The queue is too busy to begin with the mail of a node.",
    explanation="All deliveries that may run at the same time are running. What waits for the node is sent in its turn.",
    who=Who.NOBODY,
    advice="Ask again later, or just wait.",
    setting="queue.lanes",
    scenarios=("E458-1",),
)
NODE_NOT_ALLOWED = Cause(
    "extensions.node_not_allowed",
    459,
    "4.7.1",
    "Node {node} not allowed: it is not among those that may ask",
    (Stage.ETRN,),
    "RFC 1985 5",
    "Nobody may start the mail of this node.",
    explanation="Only nodes that the operator names can have their mail started by ETRN.",
    who=Who.SENDER_ADMIN,
    advice="Ask the operator to add the domain, or wait: the mail is sent without being asked for.",
    setting="etrn.allow",
    scenarios=("E459-1",),
)
ETRN_NOT_NOW = Cause(
    "extensions.etrn_not_now",
    503,
    "5.5.1",
    "Not inside a transaction",
    (Stage.ETRN,),
    "RFC 1985 5",
    "ETRN came inside a transaction.",
    explanation="A transaction has to end, by the message or by RSET, before a queue can be started.",
    who=Who.SENDER_ADMIN,
    advice="Send ETRN before MAIL.",
    scenarios=("E503-6",),
)
