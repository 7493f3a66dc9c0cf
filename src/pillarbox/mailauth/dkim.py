"""Verify and make DKIM signatures (RFC 6376, 8301, 8463, 8616): who vouches for the header and the body of a message.

Canonical forms are in `mailauth.canonical`, keys in `mailauth.keys`. Whether an author is meant by a signature is DMARC's,
and what is done about it the policy's business. Nothing here raises, whatever stands in a message or in DNS.
"""

from __future__ import annotations

import re
import struct
from binascii import a2b_base64, b2a_base64
from collections import Counter
from collections.abc import Generator, Hashable, Iterable, Sequence
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from pillarbox.mailauth import keys
from pillarbox.mailauth.canonical import (
    BodyHash,
    canonical_field,
    has_bare_line_end,
    relaxed_fields,
    relaxed_sum,
    split_fields,
)
from pillarbox.mailauth.dns import Answer, Plan, Query
from pillarbox.mailauth.names import a_labels
from pillarbox.mailauth.tags import TagError, parse_tags, unspaced

MAX_SIGNATURES = 8  # of one message that are looked at
_MAX_FIELD = 16_384  # octets of one signature
_MAX_KEYS = 3  # records at one selector that are tried
_FUTURE_S = 86_400  # clocks may differ; a signature from further ahead was not made in this world
_NEEDED = frozenset(("a", "b", "bh", "d", "h", "s"))
_ALGORITHMS = ("rsa-sha256", "ed25519-sha256", "rsa-sha1")
_NUMBER = re.compile(r"[0-9]{1,12}")
_OWN_VALUE = re.compile(rb"(;[ \t\r\n]*+b[ \t\r\n]*+=)[^;]*+")
_MAX_REMEMBERED = 2048  # octets of a signature of which is kept what it has in common with others
_MAX_FIELDS = 64  # of a header section, or names of signed ones, if what follows from them is kept
_MAX_SECTION = 16_384  # octets of such a section
_DOMAIN = re.compile(
    r"[A-Za-z0-9_\-\u0080-\U0010ffff]{1,63}(?:\.[A-Za-z0-9_\-\u0080-\U0010ffff]{1,63}){0,126}"
)

# What is signed if it is there; those marked are also signed as not being there again, so that none can be added.
SIGNED_FIELDS = (
    b"from", b"reply-to", b"subject", b"date", b"to", b"cc", b"message-id", b"in-reply-to", b"references",
    b"mime-version", b"content-type", b"content-transfer-encoding", b"content-id", b"content-disposition",
    b"list-id", b"list-help", b"list-unsubscribe", b"list-unsubscribe-post", b"list-subscribe", b"list-post",
    b"list-owner", b"list-archive", b"sender", b"auto-submitted", b"resent-date", b"resent-from", b"resent-sender",
    b"resent-to", b"resent-cc", b"resent-message-id",
)  # fmt: skip
OVERSIGNED_FIELDS = frozenset(
    (b"from", b"reply-to", b"subject", b"date", b"to", b"cc", b"message-id", b"mime-version", b"content-type")
)

_NOT_AGAIN = tuple(name for name in SIGNED_FIELDS if name in OVERSIGNED_FIELDS)


class Signature(Struct, frozen=True):
    """One DKIM-Signature field whose tags make sense, or with `problem` why it can't be verified."""

    field: bytes  # in the form in which the header is signed
    domain: str = ""
    selector: str = ""
    algorithm: str = ""
    identity: str = ""  # i=, or "@" and the domain
    signed: tuple[bytes, ...] = ()  # names in h=, in lower case
    header_form: str = "simple"
    body_form: str = "simple"
    body_hash: bytes = b""
    signature: bytes = b""
    limit: int | None = None  # l=
    made_at: int | None = None  # t=
    expires_at: int | None = None  # x=
    problem: str = ""

    @property
    def body(self) -> tuple[str, int | None]:
        """Which hash of the body it needs."""
        return self.body_form, self.limit


class Verdict(Struct, frozen=True):
    """What one signature is worth; `result` is one of RFC 8601 2.7.1, `notes` what is odd about it although it holds."""

    result: str  # pass, fail, policy, neutral, temperror, permerror
    domain: str
    selector: str = ""
    detail: str = ""
    algorithm: str = ""
    identity: str = ""
    signature_start: str = ""  # header.b: the first characters of the signature (RFC 6008)
    bits: int = 0
    testing: bool = False
    notes: tuple[str, ...] = ()
    loose: bool = False  # something that people see is not covered: text behind l=, or a field that was added

    @property
    def kind(self) -> Hashable:
        """All but what differs from signature to signature: by whom in the domain it was made, and how it begins."""
        return (
            self.result,
            self.domain,
            self.selector,
            self.detail,
            self.algorithm,
            bool(self.signature_start),
            self.bits,
            self.testing,
            self.notes,
            self.loose,
        )


class Layout(Struct, frozen=True):
    """What follows from the names of a message's fields alone."""

    names: tuple[bytes, ...]  # in lower case
    labels: tuple[bytes, ...]  # the same with colons, as relaxed fields begin
    by_name: dict[bytes, list[int]]  # where the fields of each name stand; not to be changed
    repeated: tuple[bytes, ...]  # names of fields that people see and that are there more than once


class Header:
    """The fields of one message, from which each signature takes those it covers; canonical forms are made once."""

    __slots__ = ("_bare", "_covered", "_fields", "_layout", "_section", "_usual", "_values", "names")

    def __init__(self, section: bytes) -> None:
        self._section = section
        found, self._values = relaxed_fields(section)
        self._usual = len(found) <= _MAX_FIELDS and len(section) <= _MAX_SECTION
        self._layout = (_remembered_layout if self._usual else _lay_out)(tuple(found))
        self.names = self._layout.names
        self._fields: list[bytes] | None = None
        self._bare: bool | None = None
        self._covered: dict[tuple[tuple[bytes, ...], str], bytes] = {}  # one for each signature at the most

    @property
    def fields(self) -> list[bytes]:
        """All fields as they came."""
        if self._fields is None:
            self._fields = split_fields(self._section)
        return self._fields

    @property
    def bare(self) -> bool:
        """Whether a CR or LF stands alone."""
        if self._bare is None:
            self._bare = has_bare_line_end(self._section)
        return self._bare

    @property
    def repeated(self) -> tuple[bytes, ...]:
        """Names of fields that people see and that are there more than once."""
        return self._layout.repeated

    def numbers(self, name: bytes) -> Sequence[int]:
        """Where the fields of this name stand."""
        return self._layout.by_name.get(name, ())

    def relaxed(self, number: int) -> bytes:
        """One field in relaxed form, without line end."""
        return self._layout.labels[number] + self._values[number]

    def values(self, name: bytes) -> list[bytes]:
        """The relaxed values of the fields of this name from top to bottom."""
        return [self._values[number] for number in self.numbers(name)]

    def all(self, name: bytes) -> list[bytes]:
        """The fields of this name from top to bottom."""
        numbers = self.numbers(name)
        return [self.fields[number] for number in numbers] if numbers else []

    def covered(self, names: tuple[bytes, ...], form: str) -> bytes:
        """The canonical fields that a list of names means, each with its line end: the lowest first (RFC 6376 5.4.2)."""
        octets = self._covered.get((names, form))
        if octets is None:
            usual = self._usual and len(names) <= _MAX_FIELDS
            places = (_remembered_places if usual else _places)(names, self.names)
            if form == "relaxed":
                labels, values = self._layout.labels, self._values
                lines = [labels[place] + values[place] for place in places]
            else:
                lines = [self.fields[place] for place in places]
            lines.append(b"")
            octets = self._covered[names, form] = b"\r\n".join(lines)
        return octets


def _lay_out(found: tuple[bytes, ...]) -> Layout:
    """What follows from names as they stand in a header section."""
    names = tuple(name.rstrip(b" ").lower() for name in found)
    by_name = _index(names)
    repeated = tuple(name for name in (b"from", b"subject") if len(by_name.get(name, ())) > 1)
    return Layout(names, tuple(name.lstrip(b" ") + b":" for name in names), by_name, repeated)


def _index(present: tuple[bytes, ...]) -> dict[bytes, list[int]]:
    """Where the fields of each name stand; not to be changed."""
    found: dict[bytes, list[int]] = {}
    for number, name in enumerate(present):
        found.setdefault(name, []).append(number)
    return found


def _places(names: tuple[bytes, ...], present: tuple[bytes, ...]) -> list[int]:
    """Which of the fields that are present a list of names means: of equal ones the lowest first; not to be changed."""
    left = {name: list(numbers) for name, numbers in _index(present).items()}
    return [left[name].pop() for name in names if left.get(name)]


# Mail of one origin has the same fields in the same order.
_remembered_layout = lru_cache(maxsize=256)(_lay_out)
_remembered_places = lru_cache(maxsize=256)(_places)


def signatures(header: Header, name: bytes = b"dkim-signature") -> list[Signature]:
    """The signatures of a message from top to bottom, no more than we look at."""
    return [_read(header, number) for number in header.numbers(name)[:MAX_SIGNATURES]]


def _read(header: Header, number: int) -> Signature:
    """The signature in one field: most are read from the relaxed form, which is at hand."""
    found = parse_signature(header.relaxed(number))
    return found if found.header_form == "relaxed" else replace(found, field=header.fields[number])


def parse_signature(field: bytes) -> Signature:
    """Read one field; what is wrong with it is in `problem`."""
    if len(field) > _MAX_FIELD:
        return Signature(field, problem="the signature is too long")
    _, _, value = field.partition(b":")
    try:
        tags = parse_tags(value.decode("utf-8"))
    except UnicodeDecodeError:
        return Signature(field, problem="the signature is not UTF-8")
    except TagError as error:
        return Signature(field, problem=str(error))
    if tags.get("v") != "1":
        return Signature(field, tags.get("d", "")[:255], problem="not of version 1")
    return read_tags(field, tags, tags.get("i", ""))


class _Form(Struct, frozen=True):
    """What the signatures of one signer have in common."""

    domain: str
    selector: str
    algorithm: str
    identity: str
    signed: tuple[bytes, ...]
    header_form: str
    body_form: str
    limit: int | None
    problem: str


def read_tags(field: bytes, tags: dict[str, str], identity: str) -> Signature:
    """A signature from its tags (RFC 6376 3.5, 6.1.1); also those of an ARC-Message-Signature, which has no `identity`."""
    if not tags.keys() >= _NEEDED:
        domain, selector = unspaced(tags.get("d", ""))[:255], unspaced(tags.get("s", ""))[:255]
        return Signature(field, domain, selector, problem=f"no {min(_NEEDED - tags.keys())}=")
    form = (_remembered_form if len(field) <= _MAX_REMEMBERED else _form)(
        tags["d"], tags["s"], tags["a"], tags["h"], tags.get("c"), tags.get("l"), tags.get("q"), identity
    )
    try:
        body_hash = a2b_base64(unspaced(tags["bh"]), strict_mode=True)
        signature = a2b_base64(unspaced(tags["b"]), strict_mode=True)
    except ValueError:
        return Signature(field, form.domain, form.selector, problem="bh= or b= is not base64")
    made_at, expires_at = _number(tags.get("t")), _number(tags.get("x"))
    return Signature(
        field,
        form.domain,
        form.selector,
        form.algorithm,
        form.identity,
        form.signed,
        form.header_form,
        form.body_form,
        body_hash,
        signature,
        form.limit,
        made_at,
        expires_at,
        form.problem or ("l=, t= or x= is no number" if -1 in (form.limit, made_at, expires_at) else ""),
    )


def _form(  # noqa: PLR0913, PLR0917 - one argument for each tag
    domain: str,
    selector: str,
    algorithm: str,
    names: str,
    forms: str | None,
    limit: str | None,
    methods: str | None,
    identity: str,
) -> _Form:
    domain, selector = unspaced(domain)[:255], unspaced(selector)[:255]
    header_form, _, body_form = unspaced(forms or "simple/simple").lower().partition("/")
    form = _Form(
        domain,
        selector,
        unspaced(algorithm).lower(),
        (unspaced(identity) or f"@{domain}")[:320],
        tuple(unspaced(names).lower().encode().split(b":")),
        header_form,
        body_form or "simple",
        _number(limit),
        "",
    )
    problem = _problem(form, methods)
    return replace(form, problem=problem) if problem else form


_remembered_form = lru_cache(maxsize=1024)(_form)


def _number(text: str | None) -> int | None:
    """A tag's number; None if there is none, -1 if it is none."""
    if text is None:
        return None
    return int(text) if _NUMBER.fullmatch(text) else -1


def _problem(form: _Form, methods: str | None) -> str:
    """What keeps the signatures of a signer from being verified."""
    if not (_DOMAIN.fullmatch(form.domain) and _DOMAIN.fullmatch(form.selector)):
        return "d= or s= is no domain name"
    if form.algorithm not in _ALGORITHMS:
        return f"unknown algorithm {form.algorithm[:30]}"
    if not {form.header_form, form.body_form} <= {"simple", "relaxed"}:
        return "unknown canonical form"
    if b"from" not in form.signed:
        return "From is not signed"
    if methods is not None and "dns/txt" not in unspaced(methods).lower().split(":"):
        return "the key is not in DNS"
    _, at, host = form.identity.rpartition("@")
    host, domain = host.lower(), form.domain.lower()
    if not at or not (host == domain or host.endswith(f".{domain}")):
        return "i= is not below d="
    return ""


def body_hashes(found: Iterable[Signature]) -> dict[tuple[str, int | None], BodyHash]:
    """The hashes of the body that these signatures need, to be fed with its octets."""
    return {one.body: BodyHash(*one.body) for one in found if not one.problem}


def verify(
    signature: Signature, header: Header, bodies: dict[tuple[str, int | None], BodyHash], *, now: float
) -> Plan[Verdict]:
    """Verify one signature; the body hashes must have been fed."""
    refused = _refuse(signature, now)
    if refused is not None:
        return refused
    body = bodies[signature.body]
    if body.digest() != signature.body_hash:
        return _verdict(signature, "fail", "the body was changed")
    if signature.limit is not None and signature.limit > body.octets:
        return _verdict(signature, "permerror", "l= is more than the body has")
    found = yield from fetch_keys(signature.domain, signature.selector)
    if isinstance(found, str):
        return _verdict(
            signature, "permerror" if not found.startswith("!") else "temperror", found.lstrip("!")
        )
    data = header.covered(signature.signed, signature.header_form)
    data += _unsigned(signature.field)
    for text in found:
        verdict = _judge(signature, text, data)
        if verdict.result == "pass":
            break
    added = _added(signature, header) if header.repeated else ()
    notes = added if signature.limit is None else added + _notes_on_limit(body)
    if body.bare or header.bare:
        notes += ("a bare CR or LF: other hosts may read another message than the one signed",)
    if not notes:
        return verdict
    return replace(verdict, notes=notes, loose=bool(added) or body.hashed < body.octets)


def _refuse(signature: Signature, now: float) -> Verdict | None:
    """What can be said without a look at the key."""
    if signature.problem:
        return _verdict(signature, "permerror", signature.problem)
    if signature.algorithm == "rsa-sha1":
        return _verdict(signature, "policy", "SHA-1 proves nothing any more")  # RFC 8301 3.1
    if signature.expires_at is not None:
        if signature.made_at is not None and signature.expires_at <= signature.made_at:
            return _verdict(signature, "permerror", "x= is not after t=")
        if signature.expires_at < now:
            return _verdict(signature, "fail", "the signature has expired")
    if signature.made_at is not None and signature.made_at > now + _FUTURE_S:
        return _verdict(signature, "fail", "the signature is from the future")
    return None


def _verdict(
    signature: Signature, result: str, detail: str = "", key: keys.KeyRecord | None = None
) -> Verdict:
    return Verdict(
        result,
        signature.domain.lower(),
        signature.selector,
        detail,
        signature.algorithm,
        signature.identity,
        b2a_base64(signature.signature[:6], newline=False).decode(),
        key.bits if key is not None else 0,
        testing=key is not None and key.testing,
    )


def fetch_keys(domain: str, selector: str) -> Generator[Query, Answer, list[str] | str]:
    """The key records at a selector, or why there are none; "!" in front if that may change."""
    name = a_labels(f"{selector}._domainkey.{domain}")
    if not name:
        return "the selector is no domain name"
    answer = yield Query(name, "TXT")
    if answer.failed:
        return f"!TXT of {name}: {answer.detail or 'no answer'}"
    if not answer.records:
        return f"no key at {name}"
    return list(answer.records[:_MAX_KEYS])


def unsigned_field(field: bytes, form: str) -> bytes:
    """The signature's own field as it is signed: canonical, with `b=` empty, without line end (RFC 6376 3.7)."""
    return _unsigned(canonical_field(field, form))


def _unsigned(field: bytes) -> bytes:
    name, _, value = field.partition(b":")
    return name + b":" + b"".join(_OWN_VALUE.split(b";" + value))[1:]


def _judge(signature: Signature, record: str, data: bytes) -> Verdict:
    """What the signature is worth by one key record."""
    try:
        key = keys.parse_record(record)
    except keys.BadKey as error:
        return _verdict(signature, "permerror", str(error))
    problem = misfit(signature.algorithm, key)
    if problem:
        return _verdict(signature, "policy" if "bits" in problem else "permerror", problem)
    if key.exact and signature.identity.rpartition("@")[2].lower() != signature.domain.lower():
        return _verdict(signature, "permerror", "the key allows no subdomain in i=")
    good = keys.is_valid(key, signature.signature, data)
    return _verdict(signature, "pass" if good else "fail", "" if good else "the header was changed", key)


def misfit(algorithm: str, key: keys.KeyRecord) -> str:
    """Why a key can't be used for an algorithm; "" if it can (RFC 8301 3.2)."""
    if key.algorithm != algorithm:
        return "the key is for another algorithm"
    if algorithm == "rsa-sha256" and not keys.MIN_RSA_BITS <= key.bits <= keys.MAX_RSA_BITS:
        return f"an RSA key of {key.bits} bits is {'weak' if key.bits < keys.MIN_RSA_BITS else 'too long'}"
    return ""


def _added(signature: Signature, header: Header) -> tuple[str, ...]:
    """Fields that people see and that somebody put above the ones that were signed."""
    return tuple(
        [
            f"an unsigned {name.decode().title()} field was added"
            for name in header.repeated
            if 0 < signature.signed.count(name) < len(header.numbers(name))
        ]
    )


def _notes_on_limit(body: BodyHash) -> tuple[str, ...]:
    """What a signature that covers only the first octets of the body leaves open."""
    if body.hashed < body.octets:
        return (f"l= leaves {body.octets - body.hashed} octets of the body unsigned",)
    return ("l= lets anybody add to the body",)


class Signer:
    """A key to sign with for one domain, and what its signatures have in common."""

    __slots__ = ("_start", "algorithm", "domain", "key", "selector")

    def __init__(self, domain: str, selector: str, key: keys.PrivateKey) -> None:
        self.domain = domain
        self.selector = selector
        self.key = key
        self.algorithm = keys.algorithm(key)
        start = (
            f"DKIM-Signature: v=1; a={self.algorithm}; c=relaxed/relaxed; d={domain};\r\n\ts={selector}; t="
        )
        self._start = start.encode(), _relaxed_own(start.encode())

    def sign(self, covered: bytes, rest: bytes, relaxed_rest: bytes) -> bytes:
        """A whole signature with its line end; `rest` is what stands behind `t=`, in both forms."""
        start, relaxed = self._start
        made = keys.sign(self.key, covered + relaxed + relaxed_rest, self.algorithm)
        return start + rest + fold_base64(made) + b"\r\n"


def sign(header: Header, body_hash: bytes, signers: Sequence[Signer], *, now: float) -> bytes:
    """DKIM-Signature fields with line ends, relaxed/relaxed, one for each signer; `body_hash` is that of the relaxed body."""
    present = header.names
    names, middle, relaxed = (_remembered_plan if len(present) <= _MAX_FIELDS else _plan)(present)
    covered = header.covered(names, "relaxed")
    values = int(now), b2a_base64(body_hash, newline=False)
    rest, relaxed = middle % values, relaxed % values
    return b"".join([signer.sign(covered, rest, relaxed) for signer in signers])


def _plan(present: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], bytes, bytes]:
    """What is signed of a message with these fields, and how its signature goes on behind `t=`, in both forms."""
    names = fields_to_sign(present)
    middle = b"%%d;\r\n\th=%b;\r\n\tbh=%%b;\r\n\tb=" % listed(names).replace("%", "%%").encode()
    return names, middle, _relaxed_space(middle)


_remembered_plan = lru_cache(maxsize=256)(_plan)


def _relaxed_own(start: bytes) -> bytes:
    """The relaxed form of a field that we write ourselves, so that its white space is known."""
    name, _, value = start.partition(b": ")
    return name.lower() + b":" + _relaxed_space(value)


def _relaxed_space(value: bytes) -> bytes:
    return value.replace(b"\r\n\t ", b" ").replace(b"\r\n\t", b" ")


def fields_to_sign(present: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The names to sign: each as often as it is there, and those that nobody may add once more."""
    counts = Counter(present)
    return (*(name for name in SIGNED_FIELDS for _ in range(counts[name])), *_NOT_AGAIN)


def listed(names: tuple[bytes, ...]) -> str:
    """h= in lines that are short enough."""
    lines, line = [], ""
    for name in names:
        if len(line) + len(name) > 70:
            lines.append(line)
            line = ""
        line += name.decode() + ":"
    return "\r\n\t ".join([*lines, line[:-1]])


def fold_base64(octets: bytes) -> bytes:
    """Base64 in lines that are short enough."""
    text = b2a_base64(octets, newline=False)
    return b"\r\n\t ".join(_lines_of(len(text)).unpack(text))


@lru_cache(maxsize=16)
def _lines_of(size: int) -> struct.Struct:
    """How so much text is cut into lines."""
    whole, rest = divmod(size, 72)
    return struct.Struct("72s" * whole + (f"{rest}s" if rest else ""))


def message_hash(message: bytes) -> tuple[Header, bytes]:
    """The header, and the relaxed hash of the body, of a whole message in memory."""
    if message.startswith(b"\r\n"):
        return Header(b""), relaxed_sum(message[2:])
    section, _, body = message.partition(b"\r\n\r\n")
    return Header(section), relaxed_sum(body)
