"""The domains that the commands keep. Each command is a process, so a test says much with few of them."""

import pytest


@pytest.fixture
def run(pillarbox, tmp_path):
    def run(*arguments, **further):
        return pillarbox(*arguments, "--data", tmp_path, **further)

    return run


def test_domains_and_their_aliases_are_kept(run):
    assert run("domain", "list").out == "No domain.\n"
    assert run("domain", "add", "Bücher.example", "--deliver", "hold").status == 0
    assert run("user", "add", "ann@bücher.example", PILLARBOX_PASSWORD="x").status == 0
    assert run("domain", "alias", "add", "info@bücher.example", "ann", "jo@elsewhere.example").status == 0
    assert run("domain", "alias", "list", "bücher.example", "--json").json == [
        {"name": "info", "goes_to": ["ann", "jo@elsewhere.example"]}
    ]
    (listed,) = run("domain", "list", "--json").json
    assert (listed["name"], listed["accounts"], listed["aliases"]) == ("bücher.example", "1", 1)
    assert "bücher.example  store" in run("domain", "list").out
    assert run("domain", "sts", "bücher.example", "testing", "--mx", "mx.example.org").status == 0
    assert run("domain", "list", "--json").json[0]["mta_sts"] == "testing"
    shown = run("domain", "dns", "bücher.example", "--host", "mx.example.org").out
    assert "_mta-sts.xn--bcher-kva.example. 3600 IN TXT" in shown
    assert run("domain", "sts", "bücher.example", "enforce", "--mx", "not a host").status == 65
    assert run("domain", "alias", "remove", "info@bücher.example").status == 0
    assert run("domain", "remove", "bücher.example").status == 0
    assert run("domain", "remove", "bücher.example").status == 1


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("add", "no domain", "--deliver", "hold"), 64),
        (("add", "example.org", "--deliver", "pipe:filter"), 1),
        (("alias", "add", "example.org", "x"), 64),
        (("alias", "add", "x@example.org", "y"), 1),
    ],
)
def test_what_can_not_work_is_not_taken(run, arguments, status):
    assert run("domain", *arguments).status == status


def test_a_domain_of_the_configuration_is_not_kept_twice(pillarbox, tmp_path):
    file = tmp_path / "pillarbox.toml"
    file.write_text(f'data = "{tmp_path}"\n[domain."example.org"]\ndeliver = "hold"\n')
    refused = pillarbox("domain", "add", "example.org", "--deliver", "hold", "--config", file)
    assert (refused.status, "configuration" in refused.err) == (1, True)
    assert pillarbox("domain", "list", "--config", file, "--json").json[0]["kept_in"] == "configuration"
