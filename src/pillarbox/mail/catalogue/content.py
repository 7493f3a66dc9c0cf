"""Causes around DATA, BDAT and the end of data.

What becomes of the message afterwards is in `delivery`.
"""

from __future__ import annotations

from pillarbox.mail.reply import Cause, Stage, Who

START_DATA = Cause(
    "content.start_data",
    354,
    "",
    "Send the message, end with <CRLF>.<CRLF>",
    (Stage.DATA,),
    "RFC 5321 4.1.1.4",
    "The message may be sent now.",
    explanation=(
        "At least one recipient was accepted. A dot on a line of its own ends the message; a line that "
        "begins with a dot gets another in front."
    ),
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    scenarios=("E354-1",),
)
CHUNK_OK = Cause(
    "content.chunk_ok",
    250,
    "2.0.0",
    "{octets} octets received",
    (Stage.BDAT,),
    "RFC 3030 2",
    "The chunk was received.",
    explanation="The chunk is kept, but the message is not yet accepted: that comes with the last one.",
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    scenarios=("E250-5",),
)
QUEUED = Cause(
    "content.queued",
    250,
    "2.0.0",
    "Queued as {id}",
    (Stage.BODY,),
    "RFC 5321 4.2.5",
    "The message is on stable storage; this server is now responsible for it.",
    explanation=(
        "Envelope and content are on disk and survive a crash. The id finds the message with `pillarbox "
        "trace`."
    ),
    who=Who.NOBODY,
    advice="Nothing needs to be done.",
    scenarios=("E250-4",),
)
NO_VALID_RECIPIENTS = Cause(
    "content.no_valid_recipients",
    554,
    "5.5.1",
    "No valid recipients",
    (Stage.DATA, Stage.BDAT),
    "RFC 5321 3.3",
    "Every recipient was refused.",
    explanation="Each RCPT got its own refusal before; this reply is only the echo of those.",
    who=Who.SENDER,
    advice="Look at the refusals of the recipients.",
    scenarios=("E554-2",),
)
TOO_BIG = Cause(
    "content.too_big",
    552,
    "5.3.4",
    "Message is over the limit of {limit} octets",
    (Stage.BODY, Stage.BDAT),
    "RFC 1870 6",
    "The message is larger than allowed.",
    explanation=(
        "The message was read to its end and thrown away, because it is over the limit that the answer to "
        "EHLO announces."
    ),
    who=Who.SENDER,
    advice="Send it in smaller parts, or put the files where the recipient can fetch them.",
    setting="limits.message",
    scenarios=("E552-2", "E552-3"),
)
AUTHOR_NOT_OWNED = Cause(
    "content.author_not_owned",
    550,
    "5.7.1",
    "This login may not use this address in From",
    (Stage.BODY,),
    "RFC 6409 8.1",
    "The From field names an address that the account does not own.",
    explanation="Each account may name only those addresses as the author that were given to it.",
    who=Who.SENDER,
    advice="Set the address of the account in the mail program, or ask the operator to allow this one.",
    setting="auth.check_from",
    scenarios=("E550-21",),
)
HEADER_TOO_BIG = Cause(
    "content.header_too_big",
    552,
    "5.3.4",
    "Message header is over the limit of {limit} octets",
    (Stage.BODY,),
    "RFC 5321 4.5.3.1",
    "The header section is larger than allowed.",
    explanation=(
        "Header fields are counted apart from the content, for every check has to read them at once. So "
        "many are the work of a broken program."
    ),
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
    setting="limits.header",
    scenarios=("E552-7",),
)
TOO_MANY_HOPS = Cause(
    "content.too_many_hops",
    554,
    "5.4.6",
    "Too many Received fields, this message is in a loop",
    (Stage.BODY,),
    "RFC 5321 6.3",
    "The message passed too many hosts.",
    explanation=(
        "Every host on the way adds a Received field. So many of them mean that hosts pass the message "
        "around in circles."
    ),
    who=Who.SENDER_ADMIN,
    advice="Look for forwarding that leads back to where it began.",
    setting="limits.hops",
    scenarios=("E554-3",),
)
BARE_LINE_ENDING = Cause(
    "content.bare_line_ending",
    554,
    "5.6.0",
    "Message has a CR or LF that is not part of CRLF",
    (Stage.BODY,),
    "RFC 5321 2.3.8",
    "Lines must end in CRLF; anything else is how mail is smuggled.",
    explanation=(
        "Hosts that disagree about line ends can be tricked into taking one message for two, so this "
        "server takes only CR LF."
    ),
    who=Who.SENDER_ADMIN,
    advice="The sending program has to end each line with CR LF (curl: --crlf); look at the transcript.",
    scenarios=("E554-4",),
)
LINE_TOO_LONG = Cause(
    "content.line_too_long",
    554,
    "5.6.0",
    "Message has a line of more than {limit} octets",
    (Stage.BODY,),
    "RFC 5321 4.5.3.1.6",
    "A line of the message is longer than allowed.",
    explanation=(
        "Long lines belong into quoted-printable or base64. The standard allows 998 octets; this server "
        "is more generous, but not without end."
    ),
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
    setting="limits.text_line",
    scenarios=("E554-4",),
)
NUL_OCTET = Cause(
    "content.nul_octet",
    554,
    "5.6.0",
    "Message has a NUL octet",
    (Stage.BODY,),
    "RFC 5322 4",
    "Only BODY=BINARYMIME may carry NUL.",
    explanation=(
        "A zero octet cuts text short in many programs, so mail may have it only inside of binary content "
        "that was announced."
    ),
    who=Who.SENDER_ADMIN,
    advice="Look at the transcript; the sending program has to be corrected.",
    scenarios=("E554-4",),
)
DISK_FULL = Cause(
    "content.disk_full",
    452,
    "4.3.1",
    "Not enough space to store the message, try later",
    (Stage.BODY,),
    "RFC 5321 4.2.2",
    "The disk became full while receiving.",
    explanation=("The message was read to its end so that the session stays in step, but could not be kept."),
    who=Who.OPERATOR,
    advice="Wait; the operator has to free space on the disk of the queue.",
    setting="limits.min_free",
    scenarios=("E452-5",),
)
WRITE_FAILED = Cause(
    "content.write_failed",
    451,
    "4.3.0",
    "The message could not be stored, try again; incident {incident}",
    (Stage.BODY,),
    "RFC 5321 4.2.2",
    "Writing or syncing to disk failed.",
    explanation="The disk reported an error. Nothing was accepted, so nothing is lost.",
    who=Who.OPERATOR,
    advice="Wait; the operator finds the error in the log by the incident number.",
    setting="data",
    scenarios=("E451-3",),
)
INTERNAL_ERROR = Cause(
    "content.internal_error",
    451,
    "4.3.0",
    "Internal error, try again; incident {incident}",
    (Stage.ANY,),
    "RFC 5321 4.2.2",
    "A bug in this server; the incident id finds the log line.",
    explanation=(
        "Something happened that the authors of this server did not foresee. The message was not "
        "accepted, so nothing is lost."
    ),
    who=Who.OPERATOR,
    advice=("Wait; the operator finds the error in the log by the incident number, and should report it."),
    scenarios=("E451-1",),
)
