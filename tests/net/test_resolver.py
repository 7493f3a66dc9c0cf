"""DNS asked over real sockets, of a name server that can also lie, stall or fail."""

import asyncio
import socket

import msgspec
import pytest

from pillarbox.mailauth.dns import Answer, Query, follow
from pillarbox.net.resolver import Resolver, ResolverSettings


@pytest.fixture
async def serve(serve_dns):
    async def start(zone, **settings):
        server = await serve_dns(zone)
        values = {"timeout_s": 0.6, "nameservers": (server.address,)}
        return server, Resolver(ResolverSettings(**{**values, **settings}))

    return start


def records(name, kind, *texts, ttl=300):
    return [(name, ttl, "IN", kind, *texts)]


async def test_mx_records_are_pairs(serve):
    _, resolver = await serve({"d.test. MX": records("d.test.", "MX", "10 MX1.test.", "5 mx2.test.")})
    answer = await resolver.mx("D.test")
    assert set(answer.records) == {(10, "MX1.test"), (5, "mx2.test")}
    assert not answer.failed
    assert not answer.no_domain


async def test_a_null_mx_is_an_empty_host(serve):
    _, resolver = await serve({"d.test. MX": records("d.test.", "MX", "0 .")})
    assert (await resolver.mx("d.test")).records == ((0, ""),)


async def test_addresses_of_both_families(serve):
    _, resolver = await serve(
        {
            "mx.test. A": records("mx.test.", "A", "192.0.2.1", "192.0.2.2"),
            "mx.test. AAAA": records("mx.test.", "AAAA", "2001:db8::1"),
        }
    )
    assert set((await resolver.addresses("mx.test")).records) == {"192.0.2.1", "192.0.2.2", "2001:db8::1"}


async def test_aliases_are_followed(serve):
    alias = [("mx.test.", 300, "IN", "CNAME", "real.test."), ("real.test.", 300, "IN", "A", "192.0.2.1")]
    _, resolver = await serve({"mx.test. A": alias, "mx.test. AAAA": "nothing"})
    assert (await resolver.addresses("mx.test")).records == ("192.0.2.1",)


async def test_an_alias_loop_is_no_answer_and_not_no_domain(serve):
    loop = [("a.test.", 300, "IN", "CNAME", "b.test."), ("b.test.", 300, "IN", "CNAME", "a.test.")]
    _, resolver = await serve({"a.test. MX": loop})
    answer = await resolver.mx("a.test")
    assert not answer.records
    assert not answer.no_domain


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("nxdomain", Answer(no_domain=True)),
        ("nothing", Answer()),
        ("servfail", Answer(failed=True, detail="the name servers gave no usable answer")),
        ("silent", Answer(failed=True, detail="no answer in time")),
    ],
)
async def test_not_there_and_no_answer_are_told_apart(serve, said, answer):
    _, resolver = await serve({"d.test. *": said})
    assert msgspec.structs.replace(await resolver.mx("d.test"), ttl_s=0.0) == answer
    assert msgspec.structs.replace(await resolver.addresses("d.test"), ttl_s=0.0) == answer


async def test_of_several_name_servers_the_one_that_answers_is_asked_first_from_then_on(serve):
    silent, _ = await serve({"d.test. *": "silent", "e.test. *": "silent"})
    zone = {f"{name}.test. MX": records(f"{name}.test.", "MX", "10 mx.test.") for name in "de"}
    good, _ = await serve(zone)
    _, resolver = await serve({}, nameservers=tuple(f"127.0.0.1:{one.port}" for one in (silent, good)))
    assert (await resolver.mx("d.test")).records == ((10, "mx.test"),)
    assert silent.asked == ["d.test. MX"]
    assert (await resolver.mx("e.test")).records == ((10, "mx.test"),)
    assert silent.asked == ["d.test. MX"]
    await good.stop()
    assert (await resolver.mx("f.test")).no_domain, "the other one answers again"


async def test_garbage_is_no_answer(serve):
    _, resolver = await serve({"d.test. *": "garbage"})
    assert (await resolver.mx("d.test")).failed


async def test_a_server_that_is_not_there_is_no_answer():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ResolverSettings(nameservers=(f"127.0.0.1:{port}",), timeout_s=0.5)
    assert (await Resolver(settings).mx("d.test")).failed


async def test_one_family_that_fails_does_not_hide_the_other(serve):
    _, resolver = await serve(
        {
            "mx.test. A": records("mx.test.", "A", "192.0.2.1"),
            "mx.test. AAAA": "servfail",
            "x.test. A": "nothing",
            "x.test. AAAA": "servfail",
        }
    )
    assert (await resolver.addresses("mx.test")).records == ("192.0.2.1",)
    assert (await resolver.addresses("x.test")).failed


async def test_long_answers_come_by_tcp(serve):
    many = [f"{number} mx{number}.a-rather-long-name-for-a-host.test." for number in range(300)]
    server, resolver = await serve(
        {"d.test. MX": "truncated", "d.test. full": records("d.test.", "MX", *many)}
    )
    answer = await resolver.mx("d.test")
    assert server.by_tcp == 1
    assert answer.records == tuple(
        (number, f"mx{number}.a-rather-long-name-for-a-host.test") for number in range(100)
    )  # the best hundred


async def test_answers_are_kept_for_their_time_to_live(serve):
    server, resolver = await serve(
        {
            "d.test. MX": records("d.test.", "MX", "10 mx.test."),
            "short.test. MX": records("short.test.", "MX", "10 mx.test.", ttl=0),
            "none.test. MX": "nothing",
            "down.test. MX": "servfail",
        }
    )
    for _ in range(3):
        for name in ("d.test", "d.test.", "none.test", "gone.test"):
            await resolver.mx(name)
    assert sorted(server.asked) == ["d.test. MX", "gone.test. MX", "none.test. MX"]
    server.asked.clear()
    for _ in range(3):
        await resolver.mx("short.test")
    assert len(server.asked) == 3
    server.asked.clear()
    await resolver.mx("down.test")
    asked = len(server.asked)
    await resolver.mx("down.test")
    assert len(server.asked) == asked


async def test_the_times_are_settings(serve):
    zone = {
        "d.test. MX": records("d.test.", "MX", "10 mx.test."),
        "down.test. MX": "servfail",
        "none.test. MX": "nothing",
    }
    server, resolver = await serve(zone, max_ttl_s=0.0, negative_ttl_s=0.0, failure_ttl_s=0.0)
    for name in ("d.test", "none.test", "gone.test", "down.test"):
        await resolver.mx(name)
        before = len(server.asked)
        await resolver.mx(name)
        assert len(server.asked) > before


async def test_the_cache_is_bounded(serve):
    server, resolver = await serve({}, cache_size=2)
    for number in range(5):
        await resolver.mx(f"d{number}.test")
    server.asked.clear()
    for number in (4, 3, 0):
        await resolver.mx(f"d{number}.test")
    assert server.asked == ["d0.test. MX"]


async def test_equal_questions_at_the_same_time_are_asked_once(serve):
    server, resolver = await serve({"d.test. MX": records("d.test.", "MX", "10 mx.test.")})
    answers = await asyncio.gather(*(resolver.mx("d.test") for _ in range(20)))
    assert len(server.asked) == 1
    assert len(set(answers)) == 1


async def test_who_gives_up_does_not_take_the_answer_from_others(serve):
    server, resolver = await serve({"d.test. MX": records("d.test.", "MX", "10 mx.test.")})
    first = asyncio.create_task(resolver.mx("d.test"))
    second = asyncio.create_task(resolver.mx("d.test"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).records == ((10, "mx.test"),)
    assert len(server.asked) == 1


@pytest.mark.parametrize("name", ["a" * 64 + ".test", "a..test", ("a" * 60 + ".") * 6, ""])
async def test_names_that_cannot_exist_do_not(serve, name):
    server, resolver = await serve({})
    answer = await resolver.mx(name)
    assert not answer.records
    assert server.asked == [] or name == ""


@pytest.mark.parametrize("text", ["dns.test", "127.0.0.1:x", "127.0.0.1:99999", "", "[::1", "127.0.0.1:+53"])
def test_what_is_no_name_server_is_refused(text):
    with pytest.raises(ValueError):
        Resolver(ResolverSettings(nameservers=(text,)))


def test_name_servers_may_have_ports():
    Resolver(ResolverSettings(nameservers=("127.0.0.1", "127.0.0.1:5353", "::1", "[::1]:5353")))


@pytest.mark.parametrize("name", ["localhost", "LocalHost."])
async def test_localhost_is_this_machine_and_nobody_is_asked(serve, name):
    server, resolver = await serve({})
    assert (await resolver.addresses(name)).records == ("127.0.0.1",)
    assert server.asked == []


async def test_strings_are_joined_and_what_is_not_ascii_stays_recognisable(serve):
    _, resolver = await serve(
        {"d.test. TXT": records("d.test.", "TXT", '"v=spf1 " "-all"', '"caf\\195\\169"')}
    )
    answer = await resolver.lookup(Query("d.test", "TXT"))
    assert set(answer.records) == {"v=spf1 -all", "café"}


async def test_names_of_an_address_have_no_final_dot(serve):
    _, resolver = await serve(
        {"1.2.0.192.in-addr.arpa. PTR": records("1.2.0.192.in-addr.arpa.", "PTR", "mx.test.")}
    )
    answer = await resolver.lookup(Query("1.2.0.192.in-addr.arpa", "PTR"))
    assert answer.records == ("mx.test",)
    assert answer.ttl_s == 300


async def test_an_answer_with_very_long_strings_is_not_remembered(serve):
    long = " ".join(f'"{"x" * 250}"' for _ in range(20))
    server, resolver = await serve(
        {"d.test. TXT": "truncated", "d.test. full": records("d.test.", "TXT", long)}
    )
    for _ in range(2):
        assert len((await resolver.lookup(Query("d.test", "TXT"))).records[0]) == 5000
    assert server.by_tcp == 2


async def test_a_plan_asks_one_question_after_the_other(serve):
    def first_host():
        hosts = yield Query("d.test", "MX")
        addresses = yield Query(hosts.records[0][1], "A")
        return addresses.records[0]

    _, resolver = await serve(
        {
            "d.test. MX": records("d.test.", "MX", "10 mx.test."),
            "mx.test. A": records("mx.test.", "A", "192.0.2.1"),
        }
    )
    assert await follow(first_host(), resolver.lookup) == "192.0.2.1"


async def test_who_is_believed_about_dnssec(serve):
    answers = {"d.test. MX": records("d.test.", "MX", "10 mx.test.")}
    for setting, believed in (("loopback", True), ("trusted", True), ("off", False)):
        server, resolver = await serve(answers, dnssec=setting)
        server.authentic = True
        assert (await resolver.mx("d.test")).secure is believed
    server, resolver = await serve(answers)
    assert not (await resolver.mx("d.test")).secure, "it did not say that it looked"


async def test_tlsa_records_and_aliases(serve):
    data = "ab" * 32
    alias = [("mx.test.", 300, "IN", "CNAME", "Real.test."), ("real.test.", 300, "IN", "A", "192.0.2.1")]
    _, resolver = await serve(
        {
            "_25._tcp.mx.test. TLSA": records("_25._tcp.mx.test.", "TLSA", f"3 1 1 {data}", f"2 0 0 {data}"),
            "mx.test. A": alias,
            "mx.test. CNAME": alias[:1],
        }
    )
    found = await resolver.lookup(Query("_25._tcp.mx.test", "TLSA"))
    assert found.records == ((2, 0, 0, bytes.fromhex(data)), (3, 1, 1, bytes.fromhex(data)))
    assert (await resolver.lookup(Query("mx.test", "A"))).name == "real.test"
    assert (await resolver.lookup(Query("mx.test", "CNAME"))).records == ("Real.test",)
