"""A good file becomes settings; a bad one is refused with line, key and what to write instead."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pillarbox.config import Config, ConfigError, load, parse, sandbox, warnings
from pillarbox.config.others import OTHER_NAMES
from pillarbox.mail.address import parse_address
from pillarbox.mail.route import Transport
from pillarbox.mail.units import Settings
from pillarbox.policy.directory import Directory
from pillarbox.policy.rules import Role

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
hostname = "mx1.example.org"
data = "/srv/mail"
drain = "10s"
hooks = ["myhooks"]

[log]
level = "warning"
levels = { session = "debug" }

[[listen]]
address = "0.0.0.0:25"

[[listen]]
address = "[::1]:587"
role = "submission"
login_in_clear = true

[limits]
message = "64M"
command_timeout = "2m"

[queue.retry]
first = 60
max = "1h"

[domain."example.org"]
deliver = "maildir:/var/mail/{user}"
aliases = { info = ["alice", "bob@elsewhere.example"], bot = "pipe:bot" }

[[route]]
match = "*.example.net"
via = "smtp://smart.example:587"

[program.bot]
command = ["/usr/bin/bot", "{recipient}"]

[account.alice]
password = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaA"

[policy]
relay_networks = ["192.0.2.0/24"]
"""


def test_a_good_file_gives_every_part_its_settings() -> None:
    config = parse(GOOD, "good.toml")
    assert config.hostname == "mx1.example.org"
    assert [listener.role for listener in config.listen] == [Role.MX, Role.SUBMISSION]
    assert config.limits.message_octets == 64 << 20
    assert config.limits.command_timeout_s == 120
    assert (config.queue.retry.first_s, config.queue.retry.max_s) == (60, 3600)
    assert config.drain_s == 10
    assert config.log.levels == {"session": "debug"}
    assert config.programs["bot"].command == ["/usr/bin/bot", "{recipient}"]
    assert Directory(config.directory).serves("example.org")


def test_an_empty_file_has_defaults_for_everything() -> None:
    config = parse("", "empty.toml")
    assert config.workers == 1
    assert config.hostname


ACME = '[acme]\ndirectory = "https://ca.example/dir"\nterms_agreed = true\n'
SANDBOX = '[[listen]]\naddress = "127.0.0.1:25"\nrole = "sandbox"\n'
BAD = [
    # text, line, key, part of the problem, part of the suggestion
    ("[queue.retry]\nfrist = 3\n", 2, "queue.retry.frist", "no such setting", 'did you mean "first"?'),
    ("[queu]\nlanes = 3\n", 1, "queu", "no such setting", 'did you mean "queue"?'),
    ('[log]\n\nhostname = "x"\n', 3, "log.hostname", "no such setting", "belongs to the top of the file"),
    ('[limits]\n"give_up" = "5d"\n', 2, "limits.give_up", "no such setting", "belongs into [queue.retry]"),
    ("[tls]\nzzzz = 1\n", 2, "tls.zzzz", "no such setting", "the keys here are: certificate, client_ca, key, max_handshakes"),
    ('[queue.retry]\nfirst = "soon"\n', 2, "queue.retry.first", "not a duration", 'write one such as "90s"'),
    ('[limits]\nmessage = "50 MB"\n', 2, "limits.message", "not a size", 'write one such as "64K"'),
    ('workers = "two"\n', 1, "workers", "must be a whole number, not text in quotes", ""),
    ("workers = 0\n", 1, "workers", "must be between 1 and 64", ""),
    ("hostname = 3\n", 1, "hostname", "must be text in quotes, not a whole number", ""),
    ('hostname = "bad host"\n', 1, "hostname", "not a host name", "write the full name"),
    ("[acme]\nterms_agreed = true\n", 1, "acme.directory", "not the address of an authority", 'write "https://..."'),
    ('[acme]\ndirectory = "http://ca.example/dir"\n', 2, "acme.directory", "not the address of an authority", 'write "https://..."'),
    (ACME.replace("terms_agreed = true\n", ""), 2, "acme.directory", "before you agree", "add terms_agreed = true"),
    (ACME + "keys = []\n", 4, "acme.keys", "at least one kind", 'write keys = ["ecdsa"]'),
    (ACME + 'keys = ["dsa"]\n', 4, "acme.keys[1]", "dsa", "ecdsa"),
    (ACME + 'names = ["mx.example.org", "no host"]\n', 4, "acme.names[2]", "not a host name", ""),
    (ACME + 'challenge = "dns-01"\n', 4, "acme.challenge", "", "http-01"),
    (ACME + 'address = "80"\n', 4, "acme.address", "not an address", ""),
    (ACME + 'address = "127.0.0.1:25"\n[[listen]]\naddress = "127.0.0.1:25"\n', 4, "acme.address", "the same address as that of [[listen]] number 1", ""),
    (ACME + 'eab_key_id = "kid-1"\n', 4, "acme.eab_key_id", "of no use without eab_key_file", "add eab_key_file"),
    (ACME + 'eab_key_file = "/k"\n', 4, "acme.eab_key_file", "of no use without eab_key_id", "add eab_key_id"),
    ('[tls]\nclient_ca = "/ca.pem"\n', 2, "tls.client_ca", "of no use without certificate", "add certificate"),
    ('[dmarc]\nexcept_networks = ["x"]\n', 2, "dmarc.except_networks[1]", "not appear", "192.0.2.0/24"),
    ('[dmarc]\nexcept_domains = ["a..b"]\n', 2, "dmarc.except_domains[1]", "not a domain name", ""),
    ('junk_folder = "../x"\n', 1, "junk_folder", "must be the name of one folder", '".Junk"'),
    ("[reports]\ndmarc = true\n", 2, "reports.dmarc", "nothing to report", "check = true in [dmarc]"),
    ('[reports]\nsender = "dmarc"\n', 2, "reports.sender", "not an address: domain missing", ""),
    ('[reports]\nexcept_domains = ["a.test", ""]\n', 2, "reports.except_domains[2]", "not a domain name", ""),
    ('[arc]\ntrusted_sealers = [""]\n', 2, "arc.trusted_sealers[1]", "not a domain name", ""),
    ("[dkim]\nmin_bits = 512\n", 2, "dkim.min_bits", "prove nothing", ""),
    ('[spf]\nfail = "bounce"\n', 2, "spf.fail", "not possible here", '"reject"'),
    (
        '[[route]]\nmatch = "*"\nvia = "smtp://a.test"\ntls = "dane"\n',
        4, "route[1].tls", 'tls = "dane" is for via = "mx" alone', "",
    ),
    ('[[route]]\nmatch = "*"\nvia = "mx"\ntls = "save"\n', 4, "route[1].tls", "not possible here", '"secure"'),
    (
        '[domain."a.test"]\ndeliver = "hold"\nmta_sts = { mode = "enforce", mx = ["*"] }\n',
        3, 'domain."a.test".mta_sts.mx', 'line 3: "*" is neither a host name', 'write "mx1.example.org"',
    ),
    (
        '[[listen]]\naddress = ":443"\nrole = "policy"\n',
        3, "listen[1].role", "HTTP has no STARTTLS", 'write tls = "implicit"',
    ),
    ('data = "queue"\n', 1, "data", "must be an absolute path", 'write "/.../queue"'),
    ('hooks = ["a",\n  3]\n', 2, "hooks[2]", "must be text in quotes, not a whole number", ""),
    ("log = 3\n", 1, "log", "must be a table, not a whole number", "write [log]"),
    ("listen = 3\n", 1, "listen", "must be a list of tables", "write [[listen]]"),
    ("domain = 3\n", 1, "domain", "must be a table", 'write [domain."NAME"]'),
    ('[log]\nlevel = "warn"\n', 2, "log.level", '"warn" is not possible here', 'write "warning"'),
    ('[log]\nlevel = "loud"\n', 2, "log.level", "is not possible here", '"debug", "info", "warning", "error"'),
    ("[log.levels]\nsesion = 'debug'\n", 2, "log.levels.sesion", "no event or group", 'did you mean "session"?'),
    ('[log]\n\nlevels = { "delivery.okay" = "debug" }\n', 3, 'log.levels."delivery.okay"', "no event or group", '"delivery.ok"'),
    ('[[listen]]\naddress = ":25"\ntls = "on"\n', 3, "listen[1].tls", "not possible", 'write one of "starttls", "implicit", "none"'),
    ('[[listen]]\naddress = ":25"\nrole = "smtp"\n', 3, "listen[1].role", "not possible", 'write one of "mx", "submission", "relay"'),
    ('[domain."a.test"]\nusers = "alice"\n', 2, 'domain."a.test".users', '"alice" alone', 'write ["alice"], or "*"'),
    ('[domain."a.test"]\nuser = ["alice"]\n', 2, 'domain."a.test".user', "must be a table", 'did you mean "users"?'),
    ('hooks = "x"\n', 1, "hooks", "must be a list in [ ], not text in quotes", 'write ["x"]'),
    ('[policy]\nmynetworks = ["10.0.0.0/8"]\n', 2, "policy.mynetworks", "no such setting", "here it is called policy.relay_networks"),
    ('myhostname = "mx.a.test"\n', 1, "myhostname", "no such setting", "here it is called hostname"),
    ('[domain.example.org]\ndeliver = "hold"\n', 1, "domain.example.org", "no such", 'needs quotes: [domain."example.org"]'),
    ('[domain.mail.example.org]\ndeliver = "hold"\n', 1, "domain.mail.example", "no such", '[domain."mail.example.org"]'),
    ('[[domain]]\nname = "a.test"\n', 1, "domain", "must be a table", 'write [domain."NAME"], a name with dots in quotes'),
    ('data = ""\n', 1, "data", "must be an absolute path", 'write "/var/lib/pillarbox"'),
    ('[[route]]\nmatch = "*"\nvia = "smpt://x:99"\n', 3, "route[1].via", "is no way out", 'did you mean "smtp://x:99"?'),
    ('[[route]]\nmatch = "*x"\nvia = "mx"\n', 2, "route[1].match", 'must be a domain, "*.domain" or "*"', ""),
    ('[[listen]]\naddress = "x"\n', 2, "listen[1].address", "not an address", "write host and port"),
    ('[[listen]]\naddress = "1.2.3.4:99999"\n', 2, "listen[1].address", "not an address", ""),
    ('[[listen]]\nrole = "mx"\n', 1, "listen[1]", "the key 'address' is missing", "write address = ..."),
    ('[[listen]]\naddress = ":25"\nrole = "max"\n', 3, "listen[1].role", "not possible here", 'write "mx"'),
    (
        '[[listen]]\naddress = ":25"\n[[listen]]\naddress = ":25"\n',
        4, "listen[2].address", "the same address as that of [[listen]] number 1", "",
    ),
    (
        '[[listen]]\naddress = ":465"\ntls = "implicit"\n',
        3, "listen[1].tls", "there is no certificate", "set certificate and key in [tls]",
    ),
    (
        '[[listen]]\naddress = ":25"\ntls = "none"\nrequire_tls = true\n',
        4, "listen[1].require_tls", "demanded but not offered", "remove",
    ),
    (
        '[[listen]]\naddress = ":587"\nrole = "submission"\n',
        3, "listen[1].role", "nobody could log in: there is no certificate", "[tls]",
    ),
    (
        '[[listen]]\naddress = ":25"\nproxy_protocol = true\n',
        3, "listen[1].proxy_protocol", "no balancer is trusted", "set networks in [proxy]",
    ),
    ('[proxy]\nxclient_networks = ["10.0.0.0/33"]\n', 2, "proxy.xclient_networks[1]", "10.0.0.0/33", "write one"),
    ('[tls]\nkey = "/k.pem"\n', 2, "tls.key", "of no use without certificate", "add certificate"),
    ('[tls]\nclient_ca = "/ca.pem"\n', 2, "tls.client_ca", "of no use without certificate", "add certificate"),
    (
        '[account.bob]\npassword = "$argon2id$x"\nscram = ["SCRAM-SHA-256"]\n',
        3, "account.bob.scram[1]", "not SCRAM keys", "pillarbox user hash --scram",
    ),
    ('[auth]\nmechanisms = ["SCRAM-SHA256"]\n', 2, "auth.mechanisms[1]", "no such", 'mean "SCRAM-SHA-256"?'),
    ('[oidc]\nissuer = "https://id.example"\n', 2, "oidc.issuer", "of no use without audience", "add audience"),
    ('[auth]\nmechanisms = ["GSSAPI"]\n', 2, "auth.mechanisms[1]", "no such", "there are SCRAM-SHA-256-PLUS"),
    ('[auth]\nmin_strength = "scram"\nmechanisms = ["PLAIN"]\n', 3, "auth.mechanisms", "none of them", ""),
    ('[auth]\ntrusted_networks = ["x"]\n', 2, "auth.trusted_networks[1]", "not appear", "192.0.2.0/24"),
    ('[account.bob]\npassword = "x"\n', 2, "account.bob.password", "must be an argon2 hash", "pillarbox user hash"),
    (
        '[domain."a.example"]\ndeliver = "hold"\nusers_from = ["accounts", "sql"]\n',
        3, 'domain."a.example".users_from[2]', "there is nothing to ask",
        "add url = ... and mailbox_query = ... to [sql_accounts]",
    ),
    (
        '[ldap]\nurl = "ldap.example.org"\nbase = "dc=x"\n',
        2, "ldap.url", "not an address of LDAP", 'write "ldaps://host" or "ldap://host:port"',
    ),
    (
        '[ldap]\nurl = "ldaps://h"\nbase = "dc=x"\naccount_filter = "(mail={who})"\n',
        4, "ldap.account_filter", '"{who}": the placeholders are {address}, {user}, {domain}',
        "other braces and backslashes are written \\7b, \\7d, \\5c",
    ),
    (
        '[ldap]\nurl = "ldaps://h"\nbase = "dc=x"\nbind_dn = "cn=x"\n',
        4, "ldap.bind_dn", "of no use without password_file", "add password_file = ... to [ldap]",
    ),
    ('accounts_file = "x.toml"\n', 1, "accounts_file", "must be an absolute path", 'write "/.../x.toml"'),
    (
        '[domain."a.example"]\ndeliver = "pipe:bott"\n[program.bot]\ncommand = ["/bin/bot"]\n',
        2, 'domain."a.example".deliver', 'nothing defines "pipe:bott"', 'did you mean "pipe:bot"?',
    ),
    (
        '[domain."a.example"]\ndeliver = "maildir:/m/{user}"\naliases = { x = "webhook:y" }\n',
        3, 'domain."a.example".aliases.x', 'nothing defines "webhook:y"', "add a table [webhook.y]",
    ),
    (
        '[domain."a.example"]\ndeliver = "mail:/m"\n',
        2, 'domain."a.example".deliver', "is no way out", 'did you mean "maildir:/m"?',
    ),
    (
        '[domain."a.example".aliases]\na = "b"\nb = "a"\npostmaster = "x@y.example"\n',
        2, 'domain."a.example".aliases.a', "aliases form a loop", "",
    ),
    ('[[route]]\nmatch = "*"\n\nvia = "smtp:x"\n', 4, "route[1].via", '"smtp:x"', "write smtp://host"),
    ('[[route]]\nmatch = "*"\nvia = "smtp://x:99999"\n', 3, "route[1].via", "Port out of range", "smtp://mx.example.net:587"),
    ('[[route]]\nmatch = "*"\nvia = "smtp://x?tls=on"\n', 3, "route[1].via", "tls=on", "tls=required"),
    ('[[route]]\nmatch = "*"\nvia = "lmtp://x?user=a"\n', 3, "route[1].via", "unknown option", ""),
    ('[program.bot]\ncommand = ["bot"]\n', 2, "program.bot.command", "must begin with the absolute path", ""),
    ('[webhook.x]\nurl = "ftp://x"\n', 2, "webhook.x.url", "url must be https", ""),
    ('[policy]\nrelay_networks = [\n"10.0.0.1/8"]\n', 3, "policy.relay_networks[1]", "host bits", "192.0.2.0/24"),
    (SANDBOX + '[[listen]]\naddress = ":25"\n', 4, "listen[2].role", "cannot stand beside a sandbox", 'write role = "sandbox"'),
    (SANDBOX + '[[route]]\nmatch = "*"\nvia = "mx"\n', 4, "route[1]", "of no use in a sandbox", "remove it"),
    (SANDBOX + '[domain."a.test"]\ndeliver = "hold"\n', 4, 'domain."a.test"', "takes every recipient", "remove it"),
    ('postmaster = "pipe:x"\n' + SANDBOX + '[program.x]\ncommand = ["/x"]\n', 1, "postmaster", "holds all mail", "remove it"),
    ("[limits]\nrecipients = -1\n", 2, "limits.recipients", "must be at least 1", ""),
    ("[limits]\nmessage = 0\n", 2, "limits.message", "must be at least 1", ""),
    ('[limits]\ncommand_line = "100"\n', 2, "limits.command_line", "must be at least 512", ""),
    ("[limits]\ntext_line = 997\n", 2, "limits.text_line", "must be at least 998", ""),
    ("[limits]\nheader = 0\n", 2, "limits.header", "must be at least 1", ""),
    ("[limits]\nerrors = 0\n", 2, "limits.errors", "must be at least 1", ""),
    ("[limits]\nmessages = 0\n", 2, "limits.messages", "must be at least 1", ""),
    ('[limits]\ncommand_timeout = "0s"\n', 2, "limits.command_timeout", 'must be at least "1ms"', ""),
    ("[limits]\npolicy_recipients = -1\n", 2, "limits.policy_recipients", "must be at least 0", ""),
    ("[connections]\ntotal = 0\n", 2, "connections.total", "must be at least 1", ""),
    ("[connections]\nper_address = -5\n", 2, "connections.per_address", "must be at least 1", ""),
    ("[queue.retry]\nfactor = 0.5\n", 2, "queue.retry.factor", "must be at least 1", ""),
    ("[queue.retry]\nfactor = inf\n", 2, "queue.retry.factor", "must be at least 1", ""),
    ('[queue.retry]\nfirst = "5h"\n', 1, "queue.retry.max", "less than the first wait, 5h", "or less for first"),
    ("[spam]\nreject_at = -1.0\n", 2, "spam.reject_at", "must be at least 0", ""),
    ('recipient_delimiter = "+@"\n', 1, "recipient_delimiter", "separates the user from the domain", '"+"'),
    ('[help]\nstatus_acl = ["here"]\n', 2, "help.status_acl[1]", "does not appear to be", "192.0.2.0/24"),
    ('[help]\nadmins = ["eve"]\n', 2, "help.admins[1]", 'there is no account "eve"', '[account."eve"]'),
    ('[greylist]\nallow_networks = [\n"x"]\n', 3, "greylist.allow_networks[1]", "does not appear", "192.0.2.0/24"),
    ('[[dns_lists.zone]]\nzone = "a b"\n', 2, "dns_lists.zone[1].zone", "", "zen.spamhaus.org"),
    (
        '[[dns_lists.zone]]\nzone = "bl.example"\nanswers = ["2"]\n',
        3, "dns_lists.zone[1].answers[1]", "", "127.0.0.4-127.0.0.7",
    ),
    ('[scanner]\nclamd = "clamd"\n', 2, "scanner.clamd", "not an address", "unix:/run/clamd.ctl"),
    ('[scanner]\nrspamd = "127.0.0.1"\n', 2, "scanner.rspamd", "not a web address", "http://"),
    ('[rate]\nclient = "many"\n', 2, "rate.client", "not a rate", '"100/h"'),
    ('[greylist]\naction = "reject"\n', 2, "greylist.action", '"reject" is not possible here', ""),
    ("user = \n", 1, "user", "not TOML: invalid value", 'write a value, such as user = "..."'),
    ("[log]\n\n[log]\n", 3, "", "[log] stands here a second time", "write its keys below line 1"),
    ("hooks = [1,\n", 1, "hooks", "not TOML", ""),
    ("[[listen]]\nrole = mx  # for all\n", 2, "role", "not TOML", 'write role = "mx"'),
    ("user = two words\n", 1, "user", "not TOML", 'write user = "two words"'),
    ("[[route]]\nvia = smtp://a.test:25\n", 2, "via", "not TOML", 'write via = "smtp://a.test:25"'),
    ("[limits]\nmessage = 50M\n", 2, "message", "not TOML", 'write message = "50M"'),
    ("[tls]\nself_signed = yes\n", 2, "self_signed", "not TOML", "write self_signed = true"),
    ("[[listen]]\nrole = “mx”\n", 2, "role", "not TOML", 'use straight quotes: role = "mx"'),
    ("[[listen]]\nrole = 'mx’\n", 2, "role", "not TOML", "use straight quotes: role = 'mx'"),
    ("[limits]\nhops = 50\nerrors = 9\nhops = 60\n", 4, "hops", "a second time, first on line 2", "remove one of them"),
    ("log = { level = 'info' }\n[log]\nformat = 'json'\n", 2, "", "a second time", "remove one"),
    ('user = "x\ndata = "/d"\n', 1, "user", "not TOML", 'close the quote: user = "x"'),
    ("user = 'x\n", 1, "user", "not TOML", "close the quote: user = 'x'"),
    ("\ufeffuser = 'x'\n", 1, "", "not TOML", "without a byte order mark"),
    ('[[listen]]\nrole: "mx"\n', 2, "role", "not TOML", 'write role = "mx"'),
    ("workers: 2\n", 1, "workers", "not TOML", "write workers = 2"),
    ('hooks = ["a" "b"]\n', 1, "hooks", "not TOML: unclosed array", "put a comma between the elements"),
    ('hooks = ["a"\n  "b"]\n', 2, "", "not TOML: unclosed array", "put a comma between the elements"),
    ("hooks = [a, b]\n", 1, "hooks", "not TOML", 'quotes around each text: hooks = ["a", "b"]'),
    ("log = { level = 'info' format = 'json' }\n", 1, "log", "not TOML", "put a comma between the pairs"),
    ('data = "C:\\mail"\n', 1, "data", "not TOML: unescaped", "single quotes"),
    ("= 3\n", 1, "", "not TOML", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "key", "problem", "suggestion"), BAD)
def test_a_bad_file_is_refused_with_line_key_and_advice(
    text: str, line: int, key: str, problem: str, suggestion: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text, "bad.toml")
    (found,) = refused.value.problems
    assert (found.line, found.key) == (line, key)
    assert problem in found.problem
    assert suggestion in found.suggestion


UNWISE = [
    # text, line, key, part of the problem, part of the suggestion
    ("", 0, "", "the server takes no mail", "add one"),
    ("[limits]\nrecipients = 99\n", 2, "limits.recipients", "99 is little: RFC 5321 4.5.3.1.8", "write 100 or more"),
    ('[limits]\nmessage = "1K"\n', 2, "limits.message", '"1K" is little: RFC 5321', 'write "64K" or more'),
    ("[limits]\nhops = 29\n", 2, "limits.hops", "looks like a loop", "write 30 or more"),
    ('[limits]\ncommand_timeout = "1s"\n', 2, "limits.command_timeout", '"1s" is little', 'write "30s" or more'),
    ('[queue.retry]\ngive_up = "4h"\n', 1, "queue.retry.delay_notice", "never told of a delay", "less than give_up"),
    ('[policy]\nrelay_networks = ["10.0.0.0/8",\n"::/0"]\n', 3, "policy.relay_networks[2]", "an open relay", "your own"),
    ('[policy]\nrelay_networks = ["0.0.0.0/0"]\n', 2, "policy.relay_networks[1]", "an open relay", "your own"),
    ('hostname = "mx"\n', 1, "hostname", "a name without a dot", "write the full name"),
    ('hostname = "192.0.2.1"\n', 1, "hostname", "192.0.2.1 is an address", "write the full name"),
    (SANDBOX.replace("127.0.0.1", "0.0.0.0"), 2, "listen[1].address", "can fill the sandbox", "use 127.0.0.1"),
    ('[[listen]]\naddress = ":587"\nlogin_in_clear = true\n', 3, "listen[1].login_in_clear", "read passwords", "remove it"),
    ("[spf]\n\n[dkim]\nmin_bits = 2048\n", 4, "dkim.min_bits", "of no use without dkim.check", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "key", "problem", "suggestion"), UNWISE)
def test_what_is_unwise_is_warned_of_with_line_key_and_advice(
    tmp_path: Path, text: str, line: int, key: str, problem: str, suggestion: str
) -> None:
    file = tmp_path / "x.toml"
    file.write_text(text)
    found = next(one for one in warnings(load(file), file) if (one.line, one.key) == (line, key))
    assert problem in found.problem
    assert suggestion in found.suggestion


def test_the_defaults_of_numbers_are_wise_and_priorities_and_weights_may_be_negative(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text(
        'hostname = "mx.example.org"\n[extensions]\nbusy_priority = -9\n'
        '[[dns_lists.zone]]\nzone = "good.example"\nweight = -2\n[[listen]]\naddress = "127.0.0.1:1"\nrole = "relay"\n'
    )
    assert [one.key for one in warnings(load(file), file) if one.key != "user"] == []


def test_all_errors_are_told_at_once_in_the_order_of_the_file() -> None:
    text = '[queue.retry]\nfrist = 3\nmax = "x"\n[log]\nlevel = 3\n[nonsense]\n'
    with pytest.raises(ConfigError) as refused:
        parse(text, "/etc/x.toml")
    assert [problem.line for problem in refused.value.problems] == [2, 3, 5, 6]
    assert str(refused.value).startswith(
        '/etc/x.toml:2: queue.retry.frist: there is no such setting (did you mean "first"?)\n/etc/x.toml:3: queue.retry.max: '
    )


def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b'hostname = "a.example"\ndata = "\xff"\n')
    with pytest.raises(ConfigError, match=r"x\.toml:2: not UTF-8"):
        load(tmp_path / "x.toml")


def test_one_sandbox_listener_makes_a_server_that_takes_and_holds_everything() -> None:
    config = parse(SANDBOX + '[[listen]]\naddress = ":26"\nrole = "no_mail"\n', "sandbox.toml")
    directory = Directory(config.directory)
    for recipient in ("anybody@anywhere.example", "x@[192.0.2.1]"):
        assert directory.route(parse_address(recipient)).transport is Transport.HOLD


def test_in_the_sandbox_everything_is_held_and_only_this_machine_can_connect() -> None:
    config = sandbox(data="/tmp/x")
    directory = Directory(config.directory)
    assert directory.route(parse_address("anybody@anywhere.example")).transport is Transport.HOLD
    assert all(listener.address.startswith("127.0.0.1:") for listener in config.listen)
    assert config.console.address.startswith("127.0.0.1:")


def test_what_other_servers_call_otherwise_is_called_so_here() -> None:
    for other, path in OTHER_NAMES.items():
        kind: Any = Config
        for part in path:
            if part != "NAME":
                (field,) = (one for one in msgspec.structs.fields(kind) if one.encode_name == part)
                kinds = (field.type, *typing.get_args(field.type))
                kind = next(
                    (one for one in kinds if isinstance(one, type) and issubclass(one, Settings)), None
                )
        assert other not in {field.encode_name for field in msgspec.structs.fields(Config)}
