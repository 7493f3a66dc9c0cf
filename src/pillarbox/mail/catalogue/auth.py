"""Causes around AUTH and the demand for it (RFC 4954).

Who may use which sender address is in `envelope`.
"""

from __future__ import annotations

from pillarbox.mail.reply import Cause, Stage

AUTHENTICATED = Cause(
    "auth.authenticated",
    235,
    "2.7.0",
    "Authentication successful",
    (Stage.AUTH,),
    "RFC 4954 4",
    "The login was accepted.",
    scenarios=("E235-1", "E235-2"),
)
CHALLENGE = Cause(
    "auth.challenge",
    334,
    "",
    "{challenge}",
    (Stage.AUTH,),
    "RFC 4954 4",
    "The mechanism wants the next answer.",
    scenarios=("E334-1", "E334-2"),
)
BACKEND_DOWN = Cause(
    "auth.backend_down",
    454,
    "4.7.0",
    "Login can't be checked just now",
    (Stage.AUTH,),
    "RFC 4954 6",
    "The password store can't be reached.",
    scenarios=("E454-2",),
)
ANSWER_TOO_LONG = Cause(
    "auth.answer_too_long",
    500,
    "5.5.6",
    "Authentication exchange line is too long",
    (Stage.AUTH,),
    "RFC 4954 4",
    "An answer to a challenge was longer than allowed.",
    scenarios=("E500-5",),
)
BASE64 = Cause(
    "auth.base64",
    501,
    "5.5.2",
    "Not valid base64",
    (Stage.AUTH,),
    "RFC 4954 4",
    "The answer could not be decoded.",
    scenarios=("E501-6",),
)
CANCELLED = Cause(
    "auth.cancelled",
    501,
    "5.7.0",
    "Authentication cancelled",
    (Stage.AUTH,),
    "RFC 4954 4",
    "The client gave the login up.",
    scenarios=("E501-7",),
)
NOT_OFFERED = Cause(
    "auth.not_offered",
    502,
    "5.5.1",
    "AUTH is not offered here",
    (Stage.AUTH,),
    "RFC 4954 4",
    "This listener has no logins.",
    scenarios=("E502-2",),
)
MECHANISM = Cause(
    "auth.mechanism",
    504,
    "5.5.4",
    "Mechanism not offered",
    (Stage.AUTH,),
    "RFC 4954 4",
    "The client asked for a mechanism that is not offered.",
    scenarios=("E504-1",),
)
LOGIN_REQUIRED = Cause(
    "auth.login_required",
    530,
    "5.7.0",
    "Authentication required",
    (Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BDAT, Stage.VRFY, Stage.EXPN),
    "RFC 4954 6",
    "This listener serves only clients that log in.",
    scenarios=("E530-1",),
)
TLS_REQUIRED = Cause(
    "auth.tls_required",
    530,
    "5.7.0",
    "Must issue a STARTTLS command first",
    (Stage.ANY,),
    "RFC 3207 4",
    "This listener serves only encrypted sessions.",
    scenarios=("E530-2",),
)
BAD_CREDENTIALS = Cause(
    "auth.bad_credentials",
    535,
    "5.7.8",
    "User name or password wrong",
    (Stage.AUTH,),
    "RFC 4954 6",
    "The login was refused.",
    scenarios=("E535-1", "E535-2", "E535-4"),
)
TLS_FOR_PASSWORD = Cause(
    "auth.tls_for_password",
    538,
    "5.7.11",
    "Encryption required for this mechanism",
    (Stage.AUTH,),
    "RFC 4954 6",
    "The mechanism would send the password in clear text.",
    scenarios=("E538-1",),
)
TOO_MANY_FAILURES = Cause(
    "auth.too_many_failures",
    421,
    "4.7.0",
    "{hostname} too many failed logins, closing",
    (Stage.AUTH,),
    "RFC 4954 4",
    "The client failed to log in too often.",
    scenarios=("E421-9",),
)
