"""Which certificates fit TLSA records, and what speaks against the others."""

import datetime as dt
import hashlib
import time

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mailauth.certificates import MismatchError, names_in, verify
from pillarbox.mailauth.dane import Tlsa

NOW = time.time()
NAMES = ("mx.test",)


def ders(*pems):
    return [x509.load_pem_x509_certificate(pem.bytes()).public_bytes(Encoding.DER) for pem in pems]


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def chain(authority):
    """Host, authority in between, and the one at the top: as a host with usage 2 shows them."""
    between = authority.create_child_ca()
    leaf = between.issue_cert("mx.test", "*.wild.test")
    return ders(*leaf.cert_chain_pems, authority.cert_pem)


def record(usage, selector, matching, der):
    certificate = x509.load_der_x509_certificate(der)
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    octets = key if selector else der
    digest = {0: lambda: octets, 1: hashlib.sha256(octets).digest, 2: hashlib.sha512(octets).digest}[matching]
    return Tlsa(usage, selector, matching, digest())


@pytest.mark.parametrize("matching", [0, 1, 2])
@pytest.mark.parametrize("selector", [0, 1])
def test_every_selector_and_matching_type(chain, selector, matching):
    for usage, der in ((3, chain[0]), (2, chain[1]), (2, chain[2])):
        fitting = record(usage, selector, matching, der)
        assert verify([fitting], chain, NAMES, now=NOW) == fitting
        other = fitting._replace(data=bytes(len(fitting.data)))
        assert verify([other, fitting], chain, NAMES, now=NOW) == fitting
        with pytest.raises(MismatchError, match="no certificate fits") as raised:
            verify([other], chain, NAMES, now=NOW)
        assert raised.value.kind == "validation-failure"


def test_neither_name_nor_time_count_for_the_hosts_own_certificate(authority):
    old = authority.issue_cert("other.test", not_after=dt.datetime(2001, 1, 1, tzinfo=dt.UTC))
    (der,) = ders(old.cert_chain_pems[0])
    fitting = record(3, 1, 1, der)
    assert verify([fitting], [der], NAMES, now=NOW) == fitting


def test_they_count_below_an_authority(authority):
    wrong, late = (
        authority.issue_cert("other.test"),
        authority.issue_cert("mx.test", not_after=dt.datetime(2001, 1, 1, tzinfo=dt.UTC)),
    )
    for shown, kind, words in (
        (wrong, "certificate-host-mismatch", "is for other.test"),
        (late, "certificate-expired", "not valid today"),
    ):
        chain = ders(shown.cert_chain_pems[0], authority.cert_pem)
        with pytest.raises(MismatchError, match=words) as raised:
            verify([record(2, 0, 1, chain[1])], chain, NAMES, now=NOW)
        assert raised.value.kind == kind


def test_a_star_in_a_certificate_is_one_label(chain):
    anchor = [record(2, 0, 1, chain[2])]
    assert verify(anchor, chain, ("nowhere.test", "a.WILD.test."), now=NOW)
    for name in ("wild.test", "a.b.wild.test"):
        with pytest.raises(MismatchError):
            verify(anchor, chain, (name,), now=NOW)


def test_an_authority_that_did_not_issue_the_certificate(chain):
    stranger = trustme.CA()
    shown = [*chain[:2], *ders(stranger.cert_pem)]
    with pytest.raises(MismatchError, match="does not lead") as raised:
        verify([record(2, 0, 1, shown[2])], shown, NAMES, now=NOW)
    assert raised.value.kind == "certificate-not-trusted"


def test_a_chain_with_a_gap_and_one_in_disorder(chain):
    leaf, between, top = chain
    anchor = [record(2, 0, 1, top)]
    with pytest.raises(MismatchError, match="does not lead"):
        verify(anchor, [leaf, top], NAMES, now=NOW)
    assert verify(anchor, [leaf, top, between], NAMES, now=NOW)


def test_an_authority_that_stands_whole_in_dns_need_not_be_shown(chain):
    leaf, between, top = chain
    assert verify([record(2, 0, 0, top)], [leaf, between], NAMES, now=NOW)
    with pytest.raises(MismatchError):
        verify([record(2, 0, 1, top)], [leaf, between], NAMES, now=NOW)


def test_who_is_no_authority_vouches_for_nobody(authority):
    """A host's own certificate is no authority, not even over itself."""
    (leaf,) = ders(authority.issue_cert("mx.test").cert_chain_pems[0])
    for shown in ([leaf], [leaf, leaf]):
        with pytest.raises(MismatchError):
            verify([record(2, 0, 1, leaf)], shown, NAMES, now=NOW)


def test_names_for_people(chain):
    assert names_in(chain[0]) == ("mx.test", "*.wild.test")
    assert names_in(b"nonsense") == ()


@given(st.lists(st.binary(max_size=60), max_size=4), st.binary(max_size=40))
def test_what_is_no_certificate_fits_nothing(chain, data):
    for usage in (2, 3):
        with pytest.raises(MismatchError):
            verify([Tlsa(usage, 0, 0, data)], chain, NAMES, now=NOW)
