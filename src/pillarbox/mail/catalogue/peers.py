"""Causes around hosts that speak for others: the commands XCLIENT and XFORWARD, which are extensions of Postfix.

What such a host tells of a client is weighed like what is known of one that connects by itself: by the causes of the
other modules.
"""

from __future__ import annotations

from pillarbox.mail.reply import Cause, Stage, Who

ORIGIN_NOTED = Cause(
    "peers.origin_noted",
    250,
    "2.0.0",
    "OK",
    (Stage.XCLIENT,),
    "RFC 5321 4.1.5",
    "What XFORWARD tells was noted for the next message.",
    explanation="A host in front of this server told where the next message came from. It is kept with the message and decides nothing.",
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    setting="proxy.xforward_networks",
    scenarios=("E250-9",),
)
BAD_ATTRIBUTE = Cause(
    "peers.bad_attribute",
    501,
    "5.5.4",
    "Bad attribute: {detail}",
    (Stage.XCLIENT,),
    "RFC 5321 4.1.5",
    "An attribute of XCLIENT or XFORWARD is unknown, or its value cannot be read.",
    explanation=(
        "XCLIENT and XFORWARD are followed by attributes such as NAME=host and ADDR=192.0.2.1, their values in xtext. "
        "The text says which of them is wrong. Nothing of the command was taken."
    ),
    who=Who.SENDER_ADMIN,
    advice="Correct the host in front of this server; the answer to EHLO lists the attributes that are known.",
    scenarios=("E501-9",),
)
PEER_NOT_NOW = Cause(
    "peers.not_now",
    503,
    "5.5.1",
    "Not inside a transaction",
    (Stage.XCLIENT,),
    "RFC 5321 4.1.5",
    "XCLIENT or XFORWARD came inside a transaction.",
    explanation="A transaction has to end, by the message or by RSET, before a client may change.",
    who=Who.SENDER_ADMIN,
    advice="Send these commands before MAIL.",
    scenarios=("E503-10",),
)
PEER_NOT_TRUSTED = Cause(
    "peers.not_trusted",
    550,
    "5.7.0",
    "You may not speak for other clients",
    (Stage.XCLIENT,),
    "RFC 5321 4.1.5",
    "XCLIENT or XFORWARD came from a host that is not trusted with it.",
    explanation=(
        "These commands make the server believe in another client, so only hosts that the operator named may use them. "
        "After an XCLIENT that tells an address, that address counts."
    ),
    who=Who.OPERATOR,
    advice="If the host is a proxy or filter of your own, add it to the setting.",
    setting="proxy.xclient_networks",
    scenarios=("E550-31",),
)
LOGIN_NOT_KNOWN = Cause(
    "peers.login_not_known",
    550,
    "5.7.0",
    "No such login here",
    (Stage.XCLIENT,),
    "RFC 5321 4.1.5",
    "XCLIENT names a login that is no account of this server, or one that is disabled.",
    explanation=(
        "A trusted host says that it has checked the password of this account. The account must exist here all the same, "
        "because its rights are kept here."
    ),
    who=Who.OPERATOR,
    advice="Give both servers the same accounts.",
    setting="proxy.xclient_networks",
    scenarios=("E550-32",),
)
