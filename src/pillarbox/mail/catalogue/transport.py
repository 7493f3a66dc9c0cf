"""Causes of what keeps mail from a host whose TLS is not what its domain, its sender or the operator demands."""

from __future__ import annotations

from pillarbox.mail.reply import Cause, Stage, Who

DANE_UNKNOWN = Cause(
    "transport.dane_unknown",
    451,
    "4.7.5",
    "Nobody can say how {host} proves who it is: {detail}",
    (Stage.DNS,),
    "RFC 7672 2.1.1",
    "DNS gave no answer about the host's TLSA records, or one that DNSSEC calls bogus.",
    explanation=(
        "The addresses of the host are signed, so the answer about its TLSA records would be too. Without one the host "
        "must not be used, because that is also what an attack would look like."
    ),
    who=Who.RECIPIENT_ADMIN,
    advice="Wait. If it lasts, the zone's signatures or its name servers need repair; its administrator should be told.",
    setting="relay.dane",
)
DANE_MISMATCH = Cause(
    "transport.dane_mismatch",
    451,
    "4.7.5",
    "{host} does not prove by its TLSA records who it is: {detail}",
    (Stage.STARTTLS, Stage.TLS),
    "RFC 7672 2.2",
    "The host offers no TLS, or shows a certificate that does not fit its TLSA records.",
    explanation=(
        "The domain publishes TLSA records (DANE), so mail may be given only to a host that they fit. This one is either "
        "not the host that it should be, or its certificate was renewed and the records were not."
    ),
    who=Who.RECIPIENT_ADMIN,
    advice="Wait. If it lasts, the administrator of the host should publish TLSA records that fit its certificate.",
    setting="relay.dane",
)
STS_NOT_NAMED = Cause(
    "transport.sts_not_named",
    451,
    "4.7.5",
    "{host} is not among the hosts that the MTA-STS policy of {domain} names",
    (Stage.DNS,),
    "RFC 8461 5",
    "DNS names a mail exchanger that the domain's policy does not name.",
    explanation=(
        "The domain publishes by HTTPS which hosts take its mail, and wants it kept from all others. DNS names one that "
        "is not on that list: either the answer is forged, or the policy is out of date."
    ),
    who=Who.RECIPIENT_ADMIN,
    advice="Wait. If it lasts, the administrator of the domain should add the host to the policy, and change its id.",
    setting="relay.mta_sts",
)
STS_FAILED = Cause(
    "transport.sts_failed",
    451,
    "4.7.5",
    "{host} does not meet the MTA-STS policy of {domain}: {detail}",
    (Stage.STARTTLS, Stage.TLS),
    "RFC 8461 4.2",
    "The host offers no TLS, or has no valid certificate for its name, and the domain's policy demands both.",
    explanation=(
        "The domain wants its mail given only to hosts with TLS and a certificate for their name from an authority that "
        "is trusted. This host has not, or somebody stands in between."
    ),
    who=Who.RECIPIENT_ADMIN,
    advice="Wait. If it lasts, the administrator of the host should renew its certificate.",
    setting="relay.mta_sts",
)
NO_PROOF = Cause(
    "transport.no_proof",
    451,
    "4.7.5",
    "Nothing in DNS tells how {host} could prove that it takes the mail of {domain}",
    (Stage.DNS,),
    "RFC 7672 2.2",
    "The route demands DANE or MTA-STS, and the domain has neither.",
    explanation=(
        "The operator demands of this route that its hosts are known for sure. The domain publishes no TLSA records and "
        "no MTA-STS policy that is enforced, so they can't be."
    ),
    who=Who.OPERATOR,
    advice="Ask the domain to publish one of both, or ask less of the route.",
    setting="route.tls",
)
DOWNGRADED = Cause(
    "transport.downgraded",
    451,
    "4.7.5",
    "{host} takes mail less safely than {domain} did before: {detail}",
    (Stage.TLS,),
    "RFC 7435 3",
    "The domain's hosts had better TLS some time ago than this one has today.",
    explanation=(
        "Mail for the domain went out under better TLS before. That it no longer does may be an accident, or somebody "
        "on the way who takes the encryption out."
    ),
    who=Who.OPERATOR,
    advice=(
        "Ask the administrator of the domain. If the change is meant: `pillarbox tls forget` and the domain; or set "
        'relay.tls_downgrade to "alarm".'
    ),
    setting="relay.tls_downgrade",
)
NEEDS_ENCRYPTION = Cause(
    "transport.needs_encryption",
    550,
    "5.7.10",
    "{host} can't be given a message that must stay under TLS: {detail}",
    (Stage.TLS, Stage.MAIL),
    "RFC 8689 4.2.1",
    "The message must not travel without TLS to a host that proves who it is, and this one can't be such a host.",
    explanation=(
        "The sender asked with REQUIRETLS that the message be handed on only over TLS, to hosts that prove who they are "
        "by DANE or by a certificate, and whose names DNSSEC or MTA-STS vouches for."
    ),
    who=Who.RECIPIENT_ADMIN,
    advice="Send it without that demand, or reach the recipient another way.",
    scenarios=("E550-19",),
)
