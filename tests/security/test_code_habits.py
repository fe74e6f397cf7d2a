"""What no module does, or only those that are named here, each with its reason."""

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
MODULES = {str(file.relative_to(SRC)): file.read_text() for file in sorted(SRC.rglob("*.py"))}
NODES = {name: list(ast.walk(ast.parse(text))) for name, text in MODULES.items()}

NOWHERE: frozenset[str] = frozenset()
IMPORTED: Mapping[str, Collection[str]] = {
    # what runs, or makes objects of, what somebody else has written
    **dict.fromkeys(("pickle", "marshal", "shelve", "yaml", "xml", "subprocess", "pty", "code", "runpy"), NOWHERE),
    # what tells the values of variables, or keeps memory
    **dict.fromkeys(("faulthandler", "cgitb", "pdb", "rich.traceback", "tracemalloc"), NOWHERE),
    # what anybody can predict: waiting times, numbers of requests, a made-up world
    "random": {
        "ironcage_storage/sqlite/writer.py", "ironcage_http/maintenance.py", "ironcage_http/feed_watching.py",
        "ironcage_http/demo_plans.py", "ironcage_http/demo_world.py", "ironcage_http/edge.py",
    },
    "tempfile": {"ironcage_http/rehearsal.py"},  # the database of `ironcage demo`, in a folder for its owner alone
    "ctypes": {"ironcage_http/hardening.py"},
    "jwt": {"ironcage_storage/sealed/hs256.py"},
    "argon2": {"ironcage_storage/sealed/passwords.py"},
    "cryptography.hazmat.primitives.ciphers.aead": {
        "ironcage_storage/sealed/vault.py", "ironcage_storage/sealed/ip_tokens.py",
    },
}  # fmt: skip
"""Which modules import what needs a second look."""

SILENCED = {
    ("ironcage_http/demo.py", "S105"): 2,  # no secret: made up
    ("ironcage_http/demo_world.py", "S311"): 1,  # what is drawn is no secret
    ("ironcage_http/feed_watching.py", "S311"): 1,  # a waiting time
    ("ironcage_http/maintenance.py", "S311"): 1,  # likewise
    ("ironcage_http/sessions.py", "S106"): 1,  # the name of a scheme
    ("ironcage_http/settings.py", "S104"): 1,  # every address, in production, as the contract says
    ("ironcage_http/settings_secrets.py", "S105"): 1,  # public, and refused where it matters
    ("ironcage_storage/sqlite/writer.py", "S311"): 1,  # a waiting time
}
"""Which warnings of the linter's rules for security are silenced, and how often."""

COMPARED = {
    ("ironcage_core/services/retries.py", "known.body_hash != retry.body_hash"): "of one caller's own requests",
    ("ironcage_core/services/verify.py", "row.prev_hash != heads.get(row.chain, '')"): "no secret: hashes of the log",
    ("ironcage_core/services/verify.py", "row_hash(row, row.prev_hash) != row.hash"): "likewise",
    ("ironcage_core/services/api_token_changes.py", "changed == token"): "records, which hold no value",
    ("ironcage_http/commands/shown_once.py", "value != token"): "a value that was just made here",
    ("ironcage_http/feed_messages.py", "name != secret"): "names of fields",
    ("ironcage_http/remote.py", "stored.access_token == login.access_token"): "both are this user's",
    ("ironcage_http/routes/auth.py", "body.new_password == body.current_password"): "both are what one request says",
    ("ironcage_storage/sqlite/api_tokens.py", "known.hash == value_hash"): "rows in memory, found by SHA-256",
    ("ironcage_storage/sqlite/api_tokens.py", "token.hash == value_hash"): "likewise; the caller compares again",
    ("ironcage_storage/sqlite/sessions.py", "before.refresh_hash == session.refresh_hash"): "a row and its successor",
}
"""Comparisons that take as long as two values are alike, and why nobody learns a secret by them."""

_SECRET = re.compile(r"\b_?(\w+_)?(password|secret|api_key|plaintext|token|digest|hash|signature)(_\w+)?$")
_HIDDEN = re.compile(r"(^|_)(password|secret|api_key|plaintext|raw|token|value)$")


def imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


NAMES = {file: set(imports(nodes)) for file, nodes in NODES.items()}


@pytest.mark.parametrize("name", IMPORTED)
def test_a_module_that_needs_a_second_look_is_imported_where_it_got_one(name: str) -> None:
    """No more and no fewer."""
    found = {file for file, names in NAMES.items() if any(f"{each}.".startswith(f"{name}.") for each in names)}

    assert found == set(IMPORTED[name])


def test_no_code_is_made_of_text() -> None:
    """Nor is a program started."""
    forbidden = {"eval", "exec", "compile", "__import__", "system", "popen", "mktemp", "getoutput", "breakpoint"}
    found = [
        (file, ast.unparse(node))
        for file, nodes in NODES.items()
        for node in nodes
        if isinstance(node, ast.Call)
        and (node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)) in forbidden
        and not ast.unparse(node.func).startswith("re.")
    ]

    assert found == []


def test_every_silenced_warning_was_judged() -> None:
    """The linter looks for injections, weak hashes, open permissions and unchecked certificates in every module."""
    found = Counter(
        (file, code)
        for file, text in MODULES.items()
        for codes in re.findall(r"# noqa: ([A-Z0-9, ]+)", text)
        for code in re.findall(r"\bS\d+", codes)
    )

    assert found == SILENCED
    assert [file for file, text in MODULES.items() if re.search(r"# noqa(?!: )|# ruff: noqa", text)] == []


def test_sha256_is_the_only_hash() -> None:
    """Of those that `hashlib` has."""
    imported = {name.removeprefix("hashlib.") for names in NAMES.values() for name in names if "hashlib." in name}
    named = {
        node.attr
        for nodes in NODES.values()
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hashlib"
    }

    assert imported | named == {"sha256"}


def compared() -> Iterator[tuple[str, str]]:
    for file, nodes in NODES.items():
        for node in nodes:
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
                sides = (node.left, *node.comparators)
                are_texts = not any(isinstance(side, ast.Constant) for side in sides)
                if are_texts and any(map(_SECRET.search, map(ast.unparse, sides))):
                    yield file, ast.unparse(node)


def test_what_proves_somebody_is_compared_in_constant_time() -> None:
    """Every other comparison of something that is called so was judged."""
    assert set(compared()) == set(COMPARED)


def test_no_object_shows_a_secret_that_it_holds() -> None:
    """A field of a dataclass that is a secret is left out of its `repr`: logs and failed assertions print those."""
    shown = [
        f"{file}: {made.name}.{field.target.id}"
        for file, nodes in NODES.items()
        for made in nodes
        if isinstance(made, ast.ClassDef) and any("dataclass" in ast.unparse(each) for each in made.decorator_list)
        for field in made.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if _HIDDEN.search(field.target.id) and re.match(r"(str|bytes)\b", ast.unparse(field.annotation))
        if field.value is None or "repr=False" not in ast.unparse(field.value)
    ]

    assert shown == []


def test_nothing_that_is_logged_is_called_a_secret() -> None:
    """What goes to a logger are messages, ids and numbers."""
    logged = [
        (file, ast.unparse(node))
        for file, nodes in NODES.items()
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if ast.unparse(node.func.value).endswith(("logger", "logging.getLogger(__name__)"))
        for argument in (*node.args, *(each.value for each in node.keywords))
        for part in ast.walk(argument)
        if isinstance(part, ast.Name | ast.Attribute) and _SECRET.search(ast.unparse(part))
    ]

    assert logged == []
