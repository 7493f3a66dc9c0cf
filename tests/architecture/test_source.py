"""The rules of the source that no linter knows: where replies may be written, how long things may be.

Layers and pure modules are contracts of import-linter; style and types belong to ruff and mypy.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pillarbox.mail import catalogue
from pillarbox.mail.reply import Cause

SRC = Path(__file__).parents[2] / "src" / "pillarbox"
CATALOGUE = SRC / "mail" / "catalogue"
MODULES = sorted(SRC.rglob("*.py"))

MAX_MODULE_LINES = 700
MAX_FUNCTION_LINES = 60
NAMELESS = {"utils", "util", "helpers", "helper", "common", "base", "core", "misc"}

# The codes of RFC 5321, 3207, 3463, 4954, 5336, 7504, 7505 and 9422. A number that means something else and
# looks like one of them gets a name or another spelling (5 * 100), or an entry in NOT_A_REPLY.
REPLY_CODES = frozenset(
    {211, 214, 220, 221, 235, 250, 251, 252, 334, 354, 421, 422, 431, 432, 450, 451, 452, 453, 454, 455}
    | {
        458,
        459,
        500,
        501,
        502,
        503,
        504,
        521,
        523,
        524,
        525,
        530,
        534,
        535,
        538,
        550,
        551,
        552,
        553,
        554,
        555,
        556,
    }
)
STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}(?=\s|$)")
SPELT_CODE = re.compile(r"(\d{3})(?=[ -]|\r?\n?$)")

# The two codes that are also round numbers: as the value of a name they are a count.
ROUND = frozenset({250, 500})

# A number so named is a size, a count or a time, whatever it is.
QUANTITY = re.compile(
    r"_?(max|min)_|\w*_(s|ms|octets|bytes|characters|lines|rows|messages|recipients)$", re.IGNORECASE
)

# Modules that are about what other servers say, and say nothing themselves: name below src/pillarbox, reason.
READS_PEERS = {
    "diagnose/reported.py": "what a report without numbers stands for",
    "queue/decisions.py": "the decision table is keyed by the codes that other servers answer with",
    "queue/outcome.py": "what a report says of codes that other servers answer with",
    "diagnose/transcript.py": "a paste without marks is told apart by the codes that stand for turns of speech",
    "diagnose/exchanges.py": "which reply answers which command depends on the codes of those before it",
    "diagnose/lint.py": "which code may stand where is what is judged",
    "diagnose/fates.py": "which refusal is only an echo of another is told by its code",
}

# Single literals: (name below src/pillarbox, literal), reason.
NOT_A_REPLY: dict[tuple[str, int | str], str] = {
    ("mail/reply.py", 421): "reading a peer's reply: 421 on any of its lines ends the session",
    ("mail/reply.py", "421"): "the same",
}


def shown(path: Path) -> str:
    return path.relative_to(SRC).as_posix()


def docstrings(tree: ast.AST) -> set[int]:
    """The ids of all nodes that are docstrings, which may name codes as they please."""
    return {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }


def quantities(tree: ast.AST) -> set[int]:
    """The ids of all numbers that are a bound (`400 <= code < 500`) or named as a size, a count or a time."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            if not any(isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops):
                found |= {id(node.left), *map(id, node.comparators)}
        elif isinstance(node, ast.keyword) and QUANTITY.match(node.arg or ""):
            found.add(id(node.value))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            is_round = isinstance(node.value, ast.Constant) and node.value.value in ROUND
            if isinstance(target, ast.Name) and (is_round or QUANTITY.match(target.id)):
                found.add(id(node.value))
    return found


def reply_literals(source: str) -> Iterator[tuple[int, int | str]]:
    """Each literal in `source` that spells a reply code or an enhanced status, with its line."""
    tree = ast.parse(source)
    skipped = docstrings(tree) | quantities(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in skipped:
            continue
        value = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
        if isinstance(value, str):
            spelt = SPELT_CODE.match(value)
            if STATUS.match(value) or (spelt and int(spelt[1]) in REPLY_CODES):
                yield node.lineno, value
        elif type(value) is int and value in REPLY_CODES:
            yield node.lineno, value


def functions(tree: ast.AST) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    """Each function, however deep, with its length in lines from `def` to its end."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, (node.end_lineno or node.lineno) - node.lineno + 1


def causes_named(source: str) -> set[tuple[str, str]]:
    """The (catalogue module, name) pairs that `source` refers to."""
    tree = ast.parse(source)
    package = catalogue.__name__
    modules: dict[str, str] = {}
    named: set[tuple[str, str]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            named |= {((node.module or "").rpartition(".")[2], alias.name) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            named.add((modules[node.value.id], node.attr))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
            named.add((node.value.attr, node.attr))  # catalogue.session.GREETING
    return named


def all_causes() -> dict[tuple[str, str], Cause]:
    return {
        (module.__name__.rpartition(".")[2], name): cause
        for module in catalogue.MODULES
        for name, cause in vars(module).items()
        if isinstance(cause, Cause)
    }


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("reply(550)", [550]),
        ("if code == 421: pass", [421]),
        ("x = '5.1.1'", ["5.1.1"]),
        ("x = b'4.7.1 try later'", ["4.7.1 try later"]),
        ("x = f'250 {name}'", ["250 "]),
        ("x = '354'", ["354"]),
        ("def f():\n    '''550 5.1.1 in words.'''\n    return 999", []),
        ("x = 'RFC 5321 4.2.2'", []),
        ("REFUSED = 550", [550]),
        ("PICK = 500", []),
        ("MAX_ORCPT_OCTETS = 521", []),
        ("wait(idle_s=250, code=451)", [451]),
        ("good = 400 <= code < 500", []),
        ("x = ('1.2.3', '4.7.1.2', True, 25, 4096, '2500 files')", []),
    ],
)
def test_the_walk_knows_a_reply_when_it_sees_one(source, found):
    assert [literal for _, literal in reply_literals(source)] == found


def test_replies_are_written_in_the_catalogue_alone():
    strays = [
        f"{shown(path)}:{line}: {literal!r}"
        for path in MODULES
        if CATALOGUE not in path.parents and shown(path) not in READS_PEERS
        for line, literal in reply_literals(path.read_text())
        if (shown(path), literal) not in NOT_A_REPLY
    ]
    assert not strays, "a reply code or status outside mail/catalogue:\n" + "\n".join(strays)


def test_each_exception_to_that_is_still_needed():
    present = {(shown(path), literal) for path in MODULES for _, literal in reply_literals(path.read_text())}
    assert not set(NOT_A_REPLY) - present
    assert not set(READS_PEERS) - {name for name, _ in present}


def test_causes_are_found_however_they_are_imported():
    source = (
        "from pillarbox.mail.catalogue import session as s\n"
        "from pillarbox.mail.catalogue.auth import FAILED\n"
        "import pillarbox.mail.catalogue as c\n"
        "x = s.GREETING, c.content.TOO_BIG\n"
    )
    assert {("session", "GREETING"), ("auth", "FAILED"), ("content", "TOO_BIG")} <= causes_named(source)


def test_every_cause_is_used():
    used = set().union(*(causes_named(path.read_text()) for path in MODULES if CATALOGUE not in path.parents))
    unused = [f"{module}.{name}" for module, name in all_causes() if (module, name) not in used]
    assert not unused, "causes that nothing in the source sends or records:\n" + "\n".join(unused)


def test_every_cause_has_one_name_and_one_id():
    causes = all_causes().values()
    assert len({id(cause) for cause in causes}) == len(causes)
    assert len({cause.id for cause in causes}) == len(causes)


def test_modules_are_short():
    lengths = {shown(path): len(path.read_text().splitlines()) for path in MODULES}
    long = [f"{name}: {lines} lines" for name, lines in lengths.items() if lines > MAX_MODULE_LINES]
    assert not long, f"modules longer than {MAX_MODULE_LINES} lines:\n" + "\n".join(long)


def test_functions_are_short():
    long = [
        f"{shown(path)}:{function.lineno}: {function.name}: {lines} lines"
        for path in MODULES
        for function, lines in functions(ast.parse(path.read_text()))
        if lines > MAX_FUNCTION_LINES
    ]
    assert not long, f"functions longer than {MAX_FUNCTION_LINES} lines:\n" + "\n".join(long)


def test_modules_are_named_for_what_they_do():
    nameless = [shown(path) for path in MODULES if NAMELESS & set(Path(shown(path)).with_suffix("").parts)]
    assert not nameless, f"module or folder names that say nothing: {nameless}"


def test_every_module_begins_with_a_docstring():
    silent = [shown(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent, f"modules without a docstring: {silent}"
