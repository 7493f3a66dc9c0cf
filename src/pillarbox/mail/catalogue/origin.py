"""Causes about who really sent a message: what SPF, DKIM, DMARC and ARC found.

The checks themselves are in `mailauth`; which finding refuses a message is in `policy.origin`.
"""

from __future__ import annotations

from pillarbox.mail.reply import Cause, Stage, Who

SPF_FAIL = Cause(
    "origin.spf_fail",
    550,
    "5.7.23",
    "{domain} does not let {client} send its mail (SPF {result}){words}",
    (Stage.BODY,),
    "RFC 7208 8.4, RFC 7372 3.2",
    "The sender's domain says that this host may not send its mail.",
    explanation=(
        "The domain of the reverse-path, or of EHLO if that is empty, publishes an SPF record that lists its hosts. The "
        "host that brought the message is not among them. The same happens to mail that was forwarded without rewriting its sender."
    ),
    who=Who.SENDER_ADMIN,
    advice="Send through a host that the record names, or add this one to it. Whoever forwards has to rewrite the sender.",
    setting="spf.fail",
    scenarios=("E550-8",),
)
SPF_FOR_NOW = Cause(
    "origin.spf_for_now",
    451,
    "4.7.24",
    "The SPF record of {domain} can't be looked up now, try later",
    (Stage.BODY,),
    "RFC 7208 8.6, RFC 7372 3.2",
    "DNS gave no usable answer to a question of SPF.",
    explanation="Nothing is known against the message. The name servers of the domain, or ours, did not answer in time.",
    who=Who.NOBODY,
    advice="The sending host tries again by itself. If it goes on, look at the name servers of the domain.",
    setting="spf.temperror",
    scenarios=("E451-4",),
)
SPF_BROKEN = Cause(
    "origin.spf_broken",
    550,
    "5.7.24",
    "The SPF record of {domain} can't be used: {problem}",
    (Stage.BODY,),
    "RFC 7208 8.7, RFC 7372 3.2",
    "The SPF record of the sender's domain is not well-formed.",
    explanation="A term of the record breaks the grammar, it asks for too many look-ups, or there are two records.",
    who=Who.SENDER_ADMIN,
    advice="Correct the record; the reply names the place.",
    setting="spf.permerror",
    scenarios=("E550-8",),
)
UNKNOWN_FOR_NOW = Cause(
    "origin.unknown_for_now",
    451,
    "4.4.3",
    "Who sent this can't be found out now, try later: {problem}",
    (Stage.BODY,),
    "RFC 6376 6.1.2, RFC 9989 5.3",
    "DNS gave no usable answer to a question of DKIM, ARC or DMARC.",
    explanation="Nothing is known against the message. Name servers that are needed for the check did not answer in time.",
    who=Who.NOBODY,
    advice="The sending host tries again by itself. If it goes on, look at the name servers that the reply names.",
    setting="dmarc.temperror",
    scenarios=("E451-4",),
)
DKIM_MISSING = Cause(
    "origin.dkim_missing",
    550,
    "5.7.20",
    "No DKIM signature passes{problem}",
    (Stage.BODY,),
    "RFC 7372 3.1",
    "The message has no DKIM signature that passes, and this server wants one.",
    explanation="It was not signed, or it was changed after it was signed, or the key of the signature can't be found.",
    who=Who.SENDER_ADMIN,
    advice="Sign outgoing mail with DKIM and publish the key; the reply says what was wrong with the signature.",
    setting="dkim.missing",
    scenarios=("E550-14",),
)
DKIM_UNACCEPTABLE = Cause(
    "origin.dkim_unacceptable",
    550,
    "5.7.21",
    "No acceptable DKIM signature passes: {problem}",
    (Stage.BODY,),
    "RFC 7372 3.1",
    "A DKIM signature passes, but it is not one that this server believes.",
    explanation=(
        "Its key is too short, or it leaves something unsigned that people see: text behind the length in l=, or a From or "
        "Subject field that somebody added."
    ),
    who=Who.SENDER_ADMIN,
    advice="Sign with a key of 2048 bits, without l=, and list From once more than it is there.",
    setting="dkim.unacceptable",
    scenarios=("E550-14",),
)
DKIM_NOT_AUTHOR = Cause(
    "origin.dkim_not_author",
    550,
    "5.7.22",
    "No DKIM signature is by the domain in From, {domain}",
    (Stage.BODY,),
    "RFC 7372 3.1",
    "DKIM signatures pass, but none is by the author's domain.",
    explanation="This server wants the domain in From to sign its own mail; a signature of the provider is not enough.",
    who=Who.SENDER_ADMIN,
    advice="Have mail signed with a key of the domain in From, or of the organization that it belongs to.",
    setting="dkim.not_author",
    scenarios=("E550-14",),
)
DMARC_REJECT_BOTH = Cause(
    "origin.dmarc_reject_both",
    550,
    "5.7.26",
    "SPF and DKIM both failed, and {domain} wants such mail {wish} (DMARC)",
    (Stage.BODY,),
    "RFC 9989 5.4, RFC 7372 3.3",
    "Neither SPF nor DKIM passed, and the domain in From asks to refuse such mail.",
    explanation=(
        "The domain in From publishes a DMARC policy. Neither the host that brought the message nor a signature shows that "
        "it really comes from there."
    ),
    who=Who.SENDER_ADMIN,
    advice="Sign mail of this domain with DKIM and name its hosts in SPF. If it is a mailing list, let it sign and use ARC.",
    setting="dmarc.reject",
    scenarios=("E550-13",),
)
DMARC_REJECT = Cause(
    "origin.dmarc_reject",
    550,
    "5.7.1",
    "What passed is not for {domain}, which wants such mail {wish} (DMARC)",
    (Stage.BODY,),
    "RFC 9989 5.4",
    "SPF or DKIM passed for another domain than that in From, which asks to refuse such mail.",
    explanation=(
        "The domain in From publishes a DMARC policy. Somebody vouches for the message, but not that domain: SPF or DKIM "
        "passed for a domain that is not aligned with it."
    ),
    who=Who.SENDER_ADMIN,
    advice="Use a reverse-path or a DKIM key of the domain in From, or of a domain that belongs to the same organization.",
    setting="dmarc.reject",
    scenarios=("E550-13",),
)
DMARC_NO_AUTHOR = Cause(
    "origin.dmarc_no_author",
    550,
    "5.7.1",
    "There is not exactly one From field with a domain, so nobody can vouch for the author",
    (Stage.BODY,),
    "RFC 9989 5.3, RFC 5322 3.6.2",
    "The From field is missing, is there twice, or has no domain name.",
    explanation=(
        "The author is who people believe a message to be from. Without one From field that names a domain, whoever sent the "
        "message could have any policy looked up and show another name."
    ),
    who=Who.SENDER_ADMIN,
    advice="Write exactly one From field with an address in a domain.",
    setting="dmarc.no_author",
    scenarios=("E550-13",),
)
ARC_BROKEN = Cause(
    "origin.arc_broken",
    550,
    "5.7.29",
    "The ARC chain of the message is broken: {problem}",
    (Stage.BODY,),
    "RFC 8617 5.2.1, 10.2",
    "A host on the way changed the message after another had sealed it.",
    explanation="The message says which hosts forwarded it and what they found, but one of their seals does not hold.",
    who=Who.SENDER_ADMIN,
    advice="Look at the host that forwarded the message last: it changes mail without sealing it anew.",
    setting="arc.broken",
    scenarios=("E550-15",),
)
