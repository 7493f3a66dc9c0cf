import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail.address import Address, parse_address
from pillarbox.mail.reply import Reply
from pillarbox.mail.route import Route, Transport, parse_route
from pillarbox.policy.directory import Directory
from pillarbox.policy.names import DirectorySettings, Target


def directory(**settings):
    return Directory(msgspec.convert(settings, DirectorySettings))


def one_domain(**domain):
    domain = {"deliver": "maildir:/var/mail/{user}", **domain}
    return directory(domains={"example.org": domain})


def resolve(found, text):
    return found.resolve(parse_address(text))


def ways(found, text):
    targets = resolve(found, text)
    assert not isinstance(targets, Reply), targets
    return [(target.address, str(target.route)) for target in targets]


def cause(found, text):
    reply = resolve(found, text)
    assert isinstance(reply, Reply)
    return reply.cause_id


def test_a_mailbox_keeps_its_address_and_lies_below_the_root():
    found = one_domain()
    assert ways(found, "Alice@EXAMPLE.org") == [("Alice@example.org", "maildir:/var/mail/./alice")]
    assert found.serves("example.org")
    assert found.serves("EXAMPLE.org".lower())
    assert not found.serves("example.net")


def test_users_are_compared_without_case_and_others_are_unknown():
    found = one_domain(users=["Alice"])
    assert ways(found, "aLICE@example.org") == [("aLICE@example.org", "maildir:/var/mail/./alice")]
    assert cause(found, "bob@example.org") == "envelope.recipient_unknown"


def test_internationalised_names_match_in_every_spelling():
    found = directory(
        domains={"bücher.example": {"deliver": "maildir:/m/{domain}/{user}", "users": ["Ünal"]}}
    )
    assert found.serves("xn--bcher-kva.example")
    assert found.serves("bücher.example")
    expected = "maildir:/m/./xn--bcher-kva.example/ünal"
    assert ways(found, "ünal@xn--bcher-kva.example")[0][1] == expected
    assert ways(found, "U\u0308NAL@bücher.example")[0][1] == expected  # decomposed


def test_tags_choose_folders_and_are_dropped_without_one():
    found = one_domain(deliver="maildir:/var/mail/{user}/.{tag}", users=["alice", "a+b"])
    assert ways(found, "alice+Work@example.org") == [
        ("alice+Work@example.org", "maildir:/var/mail/./alice/.work")
    ]
    assert ways(found, "alice@example.org")[0][1] == "maildir:/var/mail/./alice"
    assert ways(found, "alice+@example.org")[0][1] == "maildir:/var/mail/./alice"
    assert ways(found, "a+b@example.org")[0][1] == "maildir:/var/mail/./a+b"

    assert cause(found, "+alice@example.org") == "envelope.recipient_unknown"


def test_delimiters_are_a_setting():
    domains = {"example.org": {"deliver": "maildir:/m/{user}", "users": ["a", "c+d"]}}
    dashes = directory(domains=domains, recipient_delimiter="-+")
    assert ways(dashes, "a-x+y@example.org")[0][1] == "maildir:/m/./a"
    none = directory(domains=domains, recipient_delimiter="")
    assert cause(none, "a+x@example.org") == "envelope.recipient_unknown"
    assert ways(none, "c+d@example.org")[0][1] == "maildir:/m/./c+d"


def test_aliases_expand_to_users_elsewhere_and_programs():
    found = one_domain(
        users=["alice", "bob"],
        aliases={
            "sales": ["alice", "Bob", "sales@Example.NET", "pipe:tracker"],
            "info": "sales",
            "all": ["info", "sales", "alice"],
        },
    )
    expected = [
        ("alice@example.org", "maildir:/var/mail/./alice"),
        ("bob@example.org", "maildir:/var/mail/./bob"),
        ("sales@example.net", "mx:example.net"),
        ("sales@example.org", "pipe:tracker"),
    ]
    assert sorted(ways(found, "sales@example.org")) == expected
    assert sorted(ways(found, "info@example.org")) == expected
    assert sorted(ways(found, "all@example.org")) == expected


def test_a_tag_survives_an_alias_within_our_domains():
    found = one_domain(
        deliver="maildir:/m/{user}/{tag}", users=["alice"], aliases={"al": ["alice", "x@example.net"]}
    )
    assert ways(found, "al+news@example.org") == [
        ("x@example.net", "mx:example.net"),
        ("alice+news@example.org", "maildir:/m/./alice/news"),
    ]


def test_an_alias_may_keep_a_copy_in_the_mailbox_of_its_name():
    found = one_domain(users=["alice"], aliases={"alice": ["Alice@example.org", "a@example.net"]})
    assert ways(found, "alice@example.org") == [
        ("alice@example.org", "maildir:/var/mail/./alice"),
        ("a@example.net", "mx:example.net"),
    ]


def test_aliases_cross_our_domains():
    found = directory(
        domains={
            "example.org": {"deliver": "maildir:/m/{user}", "users": ["alice"]},
            "example.net": {"aliases": {"a": "alice@example.org", "postmaster": "a"}, "catch_all": "a"},
        }
    )
    assert ways(found, "a@example.net") == [("alice@example.org", "maildir:/m/./alice")]
    assert ways(found, "who+ever@example.net") == [("alice@example.org", "maildir:/m/./alice")]


def test_catch_all_takes_the_rest():
    found = one_domain(users=["alice"], catch_all="pipe:rest")
    assert ways(found, "alice@example.org")[0][1] == "maildir:/var/mail/./alice"
    assert ways(found, "x@example.org") == [("x@example.org", "pipe:rest")]
    assert found.route(Address("x", "example.org")) == Route(Transport.PIPE, "rest")


def test_a_domain_that_takes_no_mail():
    found = directory(domains={"example.org": {"no_mail": True}})
    assert found.serves("example.org")
    assert cause(found, "postmaster@example.org") == "envelope.domain_takes_no_mail"


@pytest.mark.parametrize(
    "text", ["postmaster", "Postmaster", "postmaster@example.org", "POSTMASTER@example.org"]
)
def test_postmaster_always_exists(text):
    assert [way for _, way in ways(one_domain(users=["alice"]), text)] == ["maildir:/var/mail/./postmaster"]
    elsewhere = directory(
        domains={"example.org": {"deliver": "maildir:/m/{user}", "users": ["alice"]}}, postmaster="alice"
    )
    assert [way for _, way in ways(elsewhere, text)] == ["maildir:/m/./alice"]
    itself = directory(
        domains={"example.org": {"deliver": "maildir:/m/{user}", "users": []}},
        postmaster="postmaster@example.org",
    )
    assert [way for _, way in ways(itself, text)] == ["maildir:/m/./postmaster"]


def test_the_bare_postmaster_of_a_server_without_domains():
    assert ways(directory(), "postmaster") == [("postmaster", "hold:")]
    assert ways(directory(postmaster="root@example.net"), "postmaster") == [
        ("root@example.net", "mx:example.net")
    ]
    assert ways(directory(postmaster="pipe:p"), "postmaster") == [("postmaster", "pipe:p")]


def test_routes_match_in_order():
    found = directory(
        routes=[
            {"match": "quiet.example", "via": "discard"},
            {"match": "*.Example.net", "via": "smtp://inner:2525"},
            {"match": "deep.example.net", "via": "hold"},
            {"match": "b\u00fccher.example", "via": "mx"},
            {"match": "*", "via": "smtp://smarthost:587"},
        ]
    )
    route = lambda domain: str(found.route(Address("x", domain)))  # noqa: E731
    assert route("quiet.example") == "discard:"
    assert route("a.b.example.net") == "smtp://inner:2525"
    assert route("deep.example.net") == "smtp://inner:2525"
    assert route("xn--bcher-kva.example") == "mx:xn--bcher-kva.example"
    assert route("bücher.example") == "mx:xn--bcher-kva.example"
    assert route("example.net") == "smtp://smarthost:587"
    assert route("[192.0.2.1]") == "smtp://smarthost:587"


def test_without_routes_mail_goes_to_the_exchangers():
    found = directory()
    assert str(found.route(parse_address("x@Example.NET"))) == "mx:example.net"
    assert resolve(found, "x@example.net") == (Target("x@example.net", Route(Transport.MX, "example.net")),)


def test_a_sandbox_holds_everything():
    found = directory(routes=[{"match": "*", "via": "hold"}])
    assert ways(found, "anyone@anywhere.example") == [("anyone@anywhere.example", "hold:")]


def test_the_way_is_the_same_at_the_next_attempt():
    found = one_domain(
        users=["alice", "carol"],
        aliases={
            "alice": ["alice", "team"],
            "team": ["carol", "pipe:tracker"],
            "up": ["team", "x@example.net"],
        },
    )
    for name in ("alice", "alice+t", "team", "team+t", "up+x", "carol", "postmaster"):
        for target in resolve(found, f"{name}@example.org"):
            assert found.route(parse_address(target.address)) == target.route


def test_mail_for_a_name_that_is_gone_is_held():
    assert one_domain(users=["alice"]).route(Address("bob", "example.org")) == Route(Transport.HOLD)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"aliases": {"a": "b", "b": "c", "c": "a"}, "users": []}, "aliases form a loop: "),
        ({"aliases": {"a": "a"}, "users": []}, 'no user "a"'),
        ({"aliases": {"a": "x"}, "users": []}, 'no user or alias "x"'),
        ({"aliases": {"a": []}}, "names no recipient"),
        ({"aliases": {"a": ["pipe:x", "pipe:y"]}}, "only one of its values"),
        ({"aliases": {"a": "pipe:"}}, "section [program.NAME]"),
        ({"aliases": {"a": "pipe:../x"}}, "section [program.NAME]"),
        ({"aliases": {"a": "https://x"}}, "local part not well formed"),
        ({"aliases": {"a@b": "c"}}, "as a local part"),
        ({"aliases": {"a": "b@c@d"}}, "domain"),
        ({"aliases": {"A": "c", "a": "c"}}, "differ only in case"),
        ({"catch_all": "x", "users": "*"}, "never applies"),
        ({"catch_all": "x", "users": []}, 'catch_all: there is no user or alias "x"'),
        ({"users": ["../x"]}, "can't name a mailbox"),
        ({"users": ["a@example.org"]}, "as a local part"),
        ({"users": ["a"], "deliver": ""}, "no `deliver`"),
        ({"deliver": ""}, "postmaster has no mailbox"),
        ({"deliver": "mail"}, "is no way out"),
        ({"deliver": "https://x.example/in"}, "webhook.NAME"),
        ({"deliver": "maildir:var/{user}"}, "must be absolute"),
        ({"deliver": "maildir:/var/../{user}"}, "not a usable folder"),
        ({"deliver": "maildir:/var/{name}"}, "the placeholders are"),
        ({"deliver": "maildir:/var/{user"}, "the placeholders are"),
        ({"deliver": "pipe:{user}"}, "placeholders belong to maildir"),
        ({"deliver": "python:os.system"}, "module:function"),
        ({"deliver": "lmtp:run/x"}, "lmtp:unix:/path"),
        ({"deliver": "discard:x"}, "nothing may follow"),
    ],
)
def test_a_broken_configuration_is_refused_in_words(settings, words):
    with pytest.raises(ValueError, match=r"^(domain|aliases|postmaster)") as refused:
        one_domain(**settings)
    assert words in str(refused.value)


def test_loops_across_domains_show_the_way_round():
    domains = {
        "a.example": {"deliver": "maildir:/m/{user}", "users": [], "aliases": {"x": "y@b.example"}},
        "b.example": {
            "deliver": "maildir:/m/{user}",
            "users": [],
            "catch_all": "z",
            "aliases": {"z": "x@a.example"},
        },
    }
    with pytest.raises(ValueError, match="loop") as refused:
        directory(domains=domains)
    assert "x@a.example -> catch_all@b.example -> z@b.example -> x@a.example" in str(
        refused.value
    ) or "->" in str(refused.value)


@pytest.mark.parametrize(
    "route",
    [
        {"match": "*x", "via": "mx"},
        {"match": "", "via": "mx"},
        {"match": "a b", "via": "mx"},
        {"match": "*", "via": "nowhere"},
        {"match": "*", "via": "maildir:/m/{user}"},
        {"match": "*", "via": "smtp:host"},
        {"match": "*", "via": "mx:"},
    ],
)
def test_a_broken_route_is_refused(route):
    with pytest.raises(ValueError, match="route 1"):
        directory(routes=[route])


def test_hints():
    found = directory(
        domains={
            "open.example": {"deliver": "maildir:/m/{user}"},
            "small.example": {"deliver": "pipe:in", "users": ["a"], "aliases": {"b": ["a", "webhook:crm"]}},
            "good.example": {"deliver": "pipe:in", "users": ["abuse"], "catch_all": "python:app:handle"},
            "none.example": {"no_mail": True},
        },
        routes=[{"match": "*", "via": "webhook:out"}],
    )
    assert [hint.split(":")[0] for hint in found.hints()] == ["open.example", "small.example"]


UNSAFE = ["../x", "..", ".", ".ssh", "a/b", "/etc", "a/../../b", "x\ty", "a\udcff", "\x85"]


@pytest.mark.parametrize("local", UNSAFE)
def test_names_that_could_lead_elsewhere_are_refused(local):
    reply = one_domain().resolve(Address(local, "example.org"))
    assert isinstance(reply, Reply)
    assert reply.cause_id == "delivery.mailbox_unsafe"
    assert one_domain().route(Address(local, "example.org")) == Route(Transport.HOLD)
    tagged = one_domain(deliver="maildir:/m/{user}/{tag}", users=["alice"])
    reply = tagged.resolve(Address(f"alice+{local}", "example.org"))
    assert isinstance(reply, Reply)
    assert reply.cause_id == "delivery.mailbox_unsafe"


def test_a_folder_name_that_is_too_long_is_refused():
    found = one_domain(deliver="maildir:/m/{user}-{local}-{domain}-{user}-{user}")
    assert isinstance(found.resolve(Address("a" * 64, "example.org")), Reply)
    assert isinstance(one_domain().resolve(Address("\U0001f4ee" * 16, "example.org")), tuple)


@given(
    st.text(st.characters(min_codepoint=1), max_size=80) | st.text("./+\\a\0\r\n~", max_size=12),
    st.sampled_from(
        ["{user}", "{local}", "{user}/{tag}", "{user}/.{tag}", "{domain}/{user}{tag}", "x{tag}/{tag}{tag}"]
    ),
)
def test_no_local_part_leads_out_of_the_root(local, pattern):
    found = one_domain(deliver=f"maildir:/var/mail/{pattern}")
    result = found.resolve(Address(local, "example.org"))
    if isinstance(result, Reply):
        assert result.permanent
        return
    assert result[0].route == found.route(Address(local, "example.org"))
    target = result[0].route.target
    assert parse_route(str(result[0].route)) == result[0].route
    root, _, below = target.partition("/./")
    assert root == "/var/mail"
    for folder in below.split("/"):
        assert folder not in {"", ".", ".."}
        assert "\0" not in folder
        assert len(folder.encode()) <= 255


def test_large_lists_cost_no_more_per_look_up():
    users = [f"user{number}" for number in range(100_000)]
    aliases = {f"alias{number}": f"user{number}" for number in range(200_000 // 2)}
    found = one_domain(users=users, aliases=aliases)
    start = time.process_time()
    for number in range(2000):
        assert ways(found, f"alias{number}@example.org")[0][0] == f"user{number}@example.org"
    assert time.process_time() - start < 2  # a scan of either list would take a minute


def test_a_long_chain_is_followed_and_a_wide_one_bounded():
    chain = {f"a{number}": f"a{number + 1}" for number in range(3000)}
    assert ways(one_domain(users=["end"], aliases={**chain, "a3000": "end"}), "a0@example.org") == [
        ("end@example.org", "maildir:/var/mail/./end")
    ]
    wide = {
        "all": [f"n{number}" for number in range(12_000)],
        **{f"n{number}": "end" for number in range(12_000)},
    }
    assert cause(one_domain(users=["end"], aliases=wide), "all@example.org") == "delivery.too_many_expansions"
