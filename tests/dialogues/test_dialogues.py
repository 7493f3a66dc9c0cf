r"""Play the dialogues of this folder, once with the bare core and once over a socket with a real store behind.

A script is a text file named after the scenarios it earns. Its lines:

    # a comment
    @ role lmtp               an option of the listener: role, tls, needs_tls, login, login_in_clear, login_needs_tls,
                              mechanisms, min_strength, vrfy, deny, relay
    @ limit recipients 2      one of its limits
    @ extension rrvs on       one of its extensions, or of the settings of one; a script turns on what it speaks of
    @ xclient 127.0.0.0/8     a network that may use XCLIENT; likewise xforward
    @ etrn example.org        a domain whose mail may be asked for
    C: NOOP                   the client sends a line; `\r`, `\n`, `\t`, `\\` and `\xHH` stand for octets
    C+ BDAT 3                 the same without the CRLF
    S: 250 2.0.0 *            the server answers a line; `*` stands for any text
    T:                        the client shakes hands, after STARTTLS
    X:                        the server has hung up
"""

import asyncio
import re
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.diagnose.lint import faults_of, lint
from pillarbox.diagnose.transcript import Side
from pillarbox.inbound.etrn import EtrnSettings
from pillarbox.mail.catalogue import CAUSES, is_outward
from pillarbox.policy.proxies import ProxySettings
from pillarbox.policy.rules import Role
from pillarbox.smtp.profile import Limits

FOLDER = Path(__file__).parent
# A test elsewhere earns the scenarios that its name begins with: test_E452_1_E452_5_a_full_disk.
EARNING = re.compile(r"def test_((?:E\d{3}_\d+_)+)")
SCRIPTS = sorted(FOLDER.glob("*.txt"))
_ESCAPE = re.compile(rb"\\(?:x([0-9a-f]{2})|([rnt\\]))")
_LETTERS = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"\\": b"\\"}


class Step(NamedTuple):
    kind: str  # C, S, T or X
    octets: bytes
    line: int


class Script(NamedTuple):
    options: dict
    steps: list

    def blocks(self):
        """What the client sends before it waits, and the lines it then expects; "T" and "X" stand alone."""
        sent, expected = b"", []
        for step in self.steps:
            if expected and step.kind != "S":
                yield sent, expected
                sent, expected = b"", []
            if step.kind == "C":
                sent += step.octets
            elif step.kind == "S":
                expected.append(step)
            else:
                yield step.kind, []
        if sent or expected:
            yield sent, expected


def unescape(text):
    return _ESCAPE.sub(lambda m: bytes([int(m[1], 16)]) if m[1] else _LETTERS[m[2]], text.encode())


def read_script(path):
    options, limits, extensions, steps = {}, {}, {}, []
    for number, line in enumerate(path.read_text().split("\n"), 1):
        mark, text = line[:2], line[3:]
        if mark == "@ ":
            name, _, value = line[2:].partition(" ")
            if name == "limit":
                key, _, amount = value.partition(" ")
                limits[key] = int(amount)
            elif name == "extension":
                key, _, state = value.partition(" ")
                extensions[key] = int(state) if state.isdigit() else state
            elif name in {"xclient", "xforward"}:
                options["proxy"] = msgspec.structs.replace(
                    options.get("proxy", ProxySettings()), **{f"{name}_networks": (value,)}
                )
            else:
                options[name] = option(name, value)
        elif mark in {"C:", "C+"}:
            steps.append(Step("C", unescape(text) + (b"\r\n" if mark == "C:" else b""), number))
        elif mark in {"S:", "T:", "X:"}:
            steps.append(Step(mark[0], text.encode(), number))
        else:
            assert not line or line[0] == "#", f"{path.name}:{number}: {line}"
    settings = {"limits": msgspec.structs.replace(Limits(), **limits), "extensions": extensions}
    return Script(options | settings, steps)


def option(name, value):
    if name == "role":
        return Role(value)
    if name in {"deny", "relay"}:
        return (value,)
    if name == "etrn":
        return EtrnSettings(allow=(value,))
    return value if name in {"tls", "vrfy", "mechanisms", "min_strength"} else value == "yes"


def compare(path, expected, lines):
    for step, line in zip(expected, lines, strict=False):
        pattern = b".*".join(re.escape(part) for part in step.octets.split(b"*"))
        assert re.fullmatch(pattern, line), f"{path.name}:{step.line}: {line!r} is not {step.octets!r}"
    assert len(lines) == len(expected), f"{path.name}: {lines} instead of {len(expected)} lines"


def lines_of(out):
    assert out.endswith(b"\r\n") or not out
    return out.split(b"\r\n")[:-1]


def play_on_core(script, core, *, pieces=None, path=None):
    """Run the script, its octets cut by `pieces`; all that the server said."""
    everything = b""
    for sent, expected in script.blocks():
        if sent == "T":
            core.start_tls()
            continue
        if sent == "X":
            assert core.closed
            continue
        for piece in pieces(sent) if pieces else [sent]:
            core.feed(piece)
        out = core.take()
        if path is not None:
            compare(path, expected, lines_of(out))
        everything += out
    return everything


def earned_by_scripts():
    return set(re.findall(r"E\d{3}-\d+", " ".join(path.stem for path in SCRIPTS)))


def earned_by_tests():
    names = (name for file in FOLDER.parent.rglob("test_*.py") for name in EARNING.findall(file.read_text()))
    return {scenario.replace("_", "-") for name in names for scenario in re.findall(r"E\d{3}_\d+", name)}


def test_every_scenario_of_the_catalogue_is_earned_and_every_one_that_is_earned_is_in_the_catalogue():
    known = {scenario for cause in CAUSES.values() for scenario in cause.scenarios}
    earned = earned_by_scripts() | earned_by_tests()
    assert sorted(known - earned) == []
    assert sorted(earned - known) == []


def test_every_reply_of_the_server_has_a_scenario():
    """What only the sending side records about itself is no reply; `tests/queue` and `tests/relay` bring it about."""
    assert [cause.id for cause in CAUSES.values() if not cause.scenarios and not is_outward(cause)] == []


scripts = pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)


@scripts
def test_a_script_shows_the_codes_that_it_is_named_after(path):
    said = [step.octets[:3] for step in read_script(path).steps if step.kind == "S"]
    for code in re.findall(r"E(\d{3})-\d+", path.stem):
        assert code.encode() in said


@scripts
def test_on_the_bare_core(new_core, path):
    script = read_script(path)
    play_on_core(script, new_core(**script.options), path=path)


# What the clients of some scripts do wrong on purpose, by the rule of the linter that has to notice it.
DELIBERATE = {
    "E500-1_E500-2_E500-3_bad_lines": {"unknown-command", "command-characters", "command-line-end"},
    "E500-6_http": {"unknown-command"},
    "E501-1_hello_without_a_name": {"bad-argument"},
    "E501-2_sender_that_cannot_be_read": {"bad-argument"},
    "E501-3_recipient_that_cannot_be_read": {"bad-argument"},
    "E501-5_argument_where_none_belongs": {"bad-argument"},
    "E501-8_bdat_without_a_number": {"bad-argument"},
    "E503-1_E503-2_E503-3_order_of_commands": {"command-order"},
    "E503-5_between_chunks": {"command-order"},
    "E502-2_starttls_and_auth_not_offered": {"not-offered"},
    "E554-4_smuggled_message": {"text-line-end"},
}


def record(script, core):
    """The session as smtplib would record it: the one notation that shows every octet."""
    lines = []
    for sent, _expected in script.blocks():
        if sent == "T":
            core.start_tls()
        elif sent != "X":
            if sent:
                lines.append(f"send: {sent!r}")
            core.feed(sent)
            lines += [f"reply: {line!r}" for line in core.take().splitlines(keepends=True)]
    return "\n".join(lines)


@scripts
def test_the_server_keeps_to_every_rule_of_the_linter(new_core, path):
    script = read_script(path)
    found = lint(record(script, new_core(**script.options)))
    assert found.exchanges
    assert [(fault.rule.id, fault.detail) for fault in faults_of(found, Side.SERVER)] == []
    noticed = {fault.rule.id for fault in faults_of(found, Side.CLIENT)}
    assert DELIBERATE.get(path.stem, set()) <= noticed


@scripts
def test_on_the_bare_core_octet_by_octet(new_core, path):
    script = read_script(path)
    play_on_core(
        script,
        new_core(**script.options),
        path=path,
        pieces=lambda sent: [sent[n : n + 1] for n in range(len(sent))],
    )


@given(data=st.data(), path=st.sampled_from(SCRIPTS))
@settings(max_examples=300, deadline=None)
def test_any_chunking_gives_the_same_octets(new_core, data, path):
    script = read_script(path)

    def pieces(sent):
        cuts = sorted(data.draw(st.sets(st.integers(0, len(sent)), max_size=8)))
        return [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]

    whole = play_on_core(script, new_core(**script.options))
    assert play_on_core(script, new_core(**script.options), pieces=pieces) == whole


@scripts
def test_all_at_once_gives_the_same_octets(new_core, path):
    script = read_script(path)
    whole = play_on_core(script, new_core(**script.options))
    merged = [b""]
    for sent, _ in script.blocks():
        if sent == "T":
            merged += ["T", b""]
        elif sent != "X":
            merged[-1] += sent
    core = new_core(**script.options)
    for sent in merged:
        if sent == "T":
            core.start_tls()
        else:
            core.feed(sent)
    assert core.take() == whole


@scripts
async def test_on_a_live_server(open_office, dial, certificates, path):
    script = read_script(path)
    office = await open_office(**script.options)
    tls = certificates.client if script.options.get("tls") == "implicit" else None
    caller = await dial(office.port, tls=tls)
    for sent, expected in script.blocks():
        if sent == "T":
            await caller.upgrade(certificates.client)
        elif sent == "X":
            assert await caller.rest() == b""
            return
        else:
            await caller.send(sent)
            lines = [await asyncio.wait_for(caller.reader.readline(), 20) for _ in expected]
            compare(path, expected, [line.removesuffix(b"\r\n") for line in lines])
    await caller.send(b"QUIT\r\n")
    assert re.fullmatch(rb"221 [^\r\n]*\r\n", await caller.rest()), (
        f"{path.name}: said more than was expected"
    )
