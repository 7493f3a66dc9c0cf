"""Causes around AUTH and the demand for it (RFC 4954).

Who may use which sender address is in `envelope`.
"""

from __future__ import annotations

from pillarbox.mail.reply import Cause, Stage, Who

AUTHENTICATED = Cause(
    "auth.authenticated",
    235,
    "2.7.0",
    "Authentication successful",
    (Stage.AUTH,),
    "RFC 4954 4",
    "The login was accepted.",
    explanation="The session goes on in the name of that account, with its rights.",
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    setting="account",
    scenarios=("E235-1", "E235-2", "E235-3", "E235-4"),
)
CHALLENGE = Cause(
    "auth.challenge",
    334,
    "",
    "{challenge}",
    (Stage.AUTH,),
    "RFC 4954 4",
    "The mechanism wants the next answer.",
    explanation="Mechanisms such as LOGIN ask for one thing after another. The text is in base64.",
    who=Who.NOBODY,
    advice="Answer in base64, or send an asterisk to give up.",
    scenarios=("E334-1", "E334-2", "E334-3"),
)
BACKEND_DOWN = Cause(
    "auth.backend_down",
    454,
    "4.7.0",
    "Login can't be checked just now",
    (Stage.AUTH,),
    "RFC 4954 6",
    "The password store can't be reached.",
    explanation=(
        "Nothing was said about the password: it may well be right. The store of passwords does not answer."
    ),
    who=Who.OPERATOR,
    advice="Try again in a minute; do not change the password.",
    setting="account",
    scenarios=("E454-2",),
)
TOO_MANY_LOGINS = Cause(
    "auth.too_many_logins",
    454,
    "4.7.0",
    "Too many logins at once, try again later",
    (Stage.AUTH,),
    "RFC 4954 6",
    "More logins wait to be checked than the server allows.",
    explanation=(
        "Checking a password takes time on purpose, and so many clients log in at this moment that the queue "
        "for it is full. Nothing was said about the password."
    ),
    who=Who.NOBODY,
    advice="Try again in a minute; do not change the password.",
    setting="auth.max_waiting",
    scenarios=("E454-3",),
)
THROTTLED = Cause(
    "auth.throttled",
    454,
    "4.7.0",
    "Too many failed logins, try again later",
    (Stage.AUTH,),
    "RFC 4954 6",
    "Too many logins failed lately, from this network or for this account.",
    explanation=(
        "Each failed login makes the next one wait longer. This one would have had to wait for too long, so it "
        "was not checked at all."
    ),
    who=Who.SENDER,
    advice="Correct the stored password, and wait for some minutes.",
    setting="auth.max_delay",
    scenarios=("E454-4",),
)
TOO_MANY_SESSIONS = Cause(
    "auth.too_many_sessions",
    454,
    "4.7.0",
    "Too many sessions of this account at once, try again later",
    (Stage.AUTH,),
    "RFC 4954 6",
    "An account has as many sessions open as it may.",
    explanation="The password is right, but other programs are logged in as this account already. The operator limits how many may be at once.",
    who=Who.SENDER,
    advice="Close other mail programs, or wait. If there are none, the password may be stolen: change it.",
    setting="connections.per_account",
    scenarios=("E454-5",),
)
PASSWORD_TRANSITION = Cause(
    "auth.password_transition",
    432,
    "4.7.12",
    "Log in once with PLAIN, then this mechanism can be used",
    (Stage.AUTH,),
    "RFC 4954 6",
    "What this mechanism needs has not been made for the account yet.",
    explanation=(
        "SCRAM compares with keys that are made from the password, and for this account there are none so far. "
        "They are made at the next login that shows the password."
    ),
    who=Who.SENDER,
    advice="Log in once with PLAIN or LOGIN over TLS.",
    setting="auth.mechanisms",
    scenarios=("E432-1",),
)
ANSWER_TOO_LONG = Cause(
    "auth.answer_too_long",
    500,
    "5.5.6",
    "Authentication exchange line is too long",
    (Stage.AUTH,),
    "RFC 4954 4",
    "An answer to a challenge was longer than allowed.",
    explanation="The answer to a challenge was longer than 12,288 octets.",
    who=Who.SENDER_ADMIN,
    advice="Use a shorter token or another mechanism.",
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
    explanation="User name and password travel in base64, and this was not base64.",
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
    scenarios=("E501-6",),
)
MALFORMED = Cause(
    "auth.malformed",
    501,
    "5.5.2",
    "Not what this mechanism has the client say",
    (Stage.AUTH,),
    "RFC 4954 4",
    "The answer was base64, but what was in it could not be read.",
    explanation=(
        "Each mechanism has a form of its own for what the client says; PLAIN, for one, wants three parts with octets of "
        "zero between them. No password was looked at."
    ),
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
    scenarios=("E501-6",),
)
CANCELLED = Cause(
    "auth.cancelled",
    501,
    "5.7.0",
    "Authentication cancelled",
    (Stage.AUTH,),
    "RFC 4954 4",
    "The client gave up the login.",
    explanation="The client sent an asterisk in place of an answer, which ends the exchange.",
    who=Who.NOBODY,
    advice="Log in again if that was not meant.",
    scenarios=("E501-7",),
)
INITIAL_RESPONSE = Cause(
    "auth.initial_response",
    501,
    "5.7.0",
    "In this mechanism the server speaks first",
    (Stage.AUTH,),
    "RFC 4954 4",
    "The client gave an answer before it was asked.",
    explanation="With CRAM-MD5 the client can't know what to answer before it has seen the challenge.",
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
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
    explanation=(
        "No account can log in at this listener, or not in this session; AUTH is not listed in the answer "
        "to EHLO."
    ),
    who=Who.SENDER_ADMIN,
    advice="Use the submission port, 587 or 465.",
    setting="listen.role",
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
    explanation="The answer to EHLO lists the mechanisms that this listener has.",
    who=Who.SENDER_ADMIN,
    advice="Choose one from the list.",
    setting="auth.mechanisms",
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
    explanation=(
        "Mail programs send through this listener only for people whose account it knows. Mail from other "
        "servers belongs to port 25."
    ),
    who=Who.SENDER,
    advice="Set user name and password for outgoing mail in the mail program.",
    setting="listen.role",
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
    explanation="Passwords and mail must not cross the network where others can read them.",
    who=Who.SENDER,
    advice="Turn on STARTTLS, or TLS, in the mail program.",
    setting="listen.require_tls",
    scenarios=("E530-2",),
)
TLS_EXPECTED = Cause(
    "auth.tls_expected",
    421,
    "4.7.0",
    "{hostname} this port begins with TLS, not with SMTP in clear",
    (Stage.CONNECT,),
    "RFC 8314 3.3",
    "The client did not begin with TLS, on a port where everything is encrypted from the first octet.",
    explanation=(
        "The client waited for a greeting in clear, or spoke without one. Here the client's TLS handshake comes first, and the "
        "greeting behind it. Nothing of what was said in clear is heard."
    ),
    who=Who.SENDER,
    advice='Choose "TLS" or "SSL" for this port in the mail program, or STARTTLS with port 587.',
    setting="listen.tls",
    scenarios=("E421-41",),
)
TLS_FOR_LOGIN = Cause(
    "auth.tls_for_login",
    530,
    "5.7.0",
    "Must issue a STARTTLS command before logging in",
    (Stage.AUTH,),
    "RFC 4954 6",
    "Logins are taken only on encrypted connections.",
    explanation=(
        "The mechanism does not send the password, but whoever listens in could guess it at leisure, or take "
        "over the session."
    ),
    who=Who.SENDER,
    advice="Turn on STARTTLS, or TLS, in the mail program.",
    setting="auth.require_tls",
    scenarios=("E530-3",),
)
DISABLED = Cause(
    "auth.disabled",
    525,
    "5.7.13",
    "This account is disabled",
    (Stage.AUTH,),
    "RFC 5248 3",
    "The login was right, but the account is closed.",
    explanation=(
        "Somebody who runs this server has closed the account. Only those who know its password are told, and only "
        "where the server is set to tell."
    ),
    who=Who.SENDER,
    advice="Ask those who run the server.",
    setting="auth.disclose_state",
    scenarios=("E525-1",),
)
TOO_WEAK = Cause(
    "auth.too_weak",
    534,
    "5.7.9",
    "Authentication mechanism is too weak",
    (Stage.AUTH,),
    "RFC 4954 6",
    "The mechanism protects less than this server demands.",
    explanation="The server has the mechanism, but its settings ask for a stronger one.",
    who=Who.SENDER,
    advice="Choose a stronger mechanism in the mail program; the answer to EHLO lists them.",
    setting="auth.min_strength",
    scenarios=("E534-1",),
)
TLS_TOO_WEAK = Cause(
    "auth.tls_too_weak",
    554,
    "5.7.0",
    "Refused: the encryption of this session is too weak",
    (Stage.ANY,),
    "RFC 3207 4.1",
    "The TLS handshake ended in an older version than is demanded.",
    explanation="The session is encrypted, but not well enough for this server. Only QUIT is left.",
    who=Who.SENDER_ADMIN,
    advice="Bring the TLS library of the sending program up to date.",
    setting="tls.min_version",
    scenarios=("E554-6",),
)
CERTIFICATE_REQUIRED = Cause(
    "auth.certificate_required",
    554,
    "5.7.0",
    "Refused: this service is only for clients with a certificate",
    (Stage.ANY,),
    "RFC 3207 4.1",
    "The client showed no certificate in the TLS handshake, and this listener demands one.",
    explanation=(
        "The session is encrypted, but the client did not prove who it is by a certificate of its own. Only QUIT "
        "is left."
    ),
    who=Who.SENDER_ADMIN,
    advice="Give the sending program a certificate of an authority that this server trusts.",
    setting="listen.client_certificate",
    scenarios=("E554-6",),
)
BAD_CREDENTIALS = Cause(
    "auth.bad_credentials",
    535,
    "5.7.8",
    "User name or password wrong",
    (Stage.AUTH,),
    "RFC 4954 6",
    "The login was refused.",
    explanation=(
        "The account does not exist or the password is wrong; the server does not tell which. After "
        "several tries it closes the session."
    ),
    who=Who.SENDER,
    advice="Enter user name and password again.",
    setting="account",
    scenarios=("E535-1", "E535-2", "E535-3", "E535-4"),
)
TLS_FOR_PASSWORD = Cause(
    "auth.tls_for_password",
    538,
    "5.7.11",
    "Encryption required for this mechanism",
    (Stage.AUTH,),
    "RFC 4954 6",
    "The mechanism would send the password in clear text.",
    explanation=(
        "PLAIN and LOGIN send the password itself, so they are accepted only on an encrypted connection."
    ),
    who=Who.SENDER,
    advice="Turn on STARTTLS, or TLS, in the mail program.",
    setting="listen.login_in_clear",
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
    explanation="Somebody mistyped a password again and again, or is guessing.",
    who=Who.SENDER,
    advice="Correct the stored password before connecting again.",
    setting="limits.login_failures",
    scenarios=("E421-9",),
)
