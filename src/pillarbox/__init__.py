"""A complete mail transfer agent that can always say why: the public names; it leaves the work to its modules."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pillarbox.diagnose.bounce import Bounce, BouncedRecipient, BounceKind, read_bounce
    from pillarbox.diagnose.classify import Verdict, classify
    from pillarbox.library import Received, Server, disconnect, refuse, send
    from pillarbox.mail.reply import Reply

__version__: str
__all__ = [
    "Bounce",
    "BounceKind",
    "BouncedRecipient",
    "Received",
    "Reply",
    "Server",
    "Verdict",
    "classify",
    "disconnect",
    "read_bounce",
    "refuse",
    "send",
]

_HOME = (
    dict.fromkeys(("Received", "Server", "disconnect", "refuse", "send"), "pillarbox.library")
    | dict.fromkeys(("Bounce", "BounceKind", "BouncedRecipient", "read_bounce"), "pillarbox.diagnose.bounce")
    | dict.fromkeys(("Verdict", "classify"), "pillarbox.diagnose.classify")
    | {"Reply": "pillarbox.mail.reply"}
)


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: the commands must start fast and need few of them."""
    if name == "__version__":
        return import_module("importlib.metadata").version("pillarbox")
    if name not in _HOME:
        msg = f"module 'pillarbox' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names, whether they were used before or not."""
    return [*__all__, "__version__"]
