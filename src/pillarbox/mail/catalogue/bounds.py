"""Causes that end a session because its client takes more time, octets or memory than it can have."""

from __future__ import annotations

from pillarbox.mail.reply import Cause, Stage, Who

TOO_SLOW = Cause(
    "bounds.too_slow",
    421,
    "4.4.2",
    "{hostname} the message comes too slowly, closing",
    (Stage.BODY, Stage.BDAT),
    "RFC 5321 4.5.3.2.5",
    "The client sent its message too slowly.",
    explanation=(
        "Octets came, but so few that the message would have held its place for hours. Nothing of it was kept. Attacks "
        "that hold many connections work so, and so do networks that hardly work any more."
    ),
    who=Who.SENDER_ADMIN,
    advice="Send again over a better connection, or a smaller message.",
    setting="limits.min_data",
    scenarios=("E421-31",),
)
TOO_MUCH = Cause(
    "bounds.too_much",
    421,
    "4.7.0",
    "{hostname} far more octets than a message may have, closing",
    (Stage.BODY, Stage.BDAT),
    "RFC 5321 4.5.3.1.7",
    "The client sent more than twice what the largest message may have, without an end.",
    explanation=(
        "A message that is too large is read to its end, so that the client learns why it is refused. One that goes on and "
        "on is not: the connection is closed, and nothing was kept."
    ),
    who=Who.SENDER_ADMIN,
    advice="Send a smaller message; EHLO tells the limit after SIZE.",
    setting="limits.message",
    scenarios=("E421-32",),
)
NO_MEMORY = Cause(
    "bounds.no_memory",
    421,
    "4.3.1",
    "{hostname} is short of memory, closing, try again later",
    (Stage.ANY,),
    "RFC 5321 3.8",
    "All clients together had the server keep too much in memory, and this one most of it.",
    explanation=(
        "Messages that are not complete, commands that wait for their answer, and answers that nobody reads are kept in "
        "memory, and so much was kept that whoever had most was sent away. Nothing of its message was accepted. That "
        "happens under attack, or if the bound is too low for the number of clients."
    ),
    who=Who.OPERATOR,
    advice="Wait; a mail server tries again by itself. The operator may raise the bound if that was no attack.",
    setting="connections.memory",
    scenarios=("E421-33",),
)
