"""The list of commands. Each module is imported only when its command is called, so that none pays for another.

What a command does is its module's business.
"""

from __future__ import annotations

from importlib import import_module

import click

from pillarbox.cli.outcome import Exit

click.UsageError.exit_code = Exit.USAGE  # as sysexits.h has it, like all other statuses here

_COMMANDS = {
    "serve": ("pillarbox.cli.serve", "serve", "Run the server, or without a file the sandbox."),
    "send": (
        "pillarbox.cli.send",
        "send",
        "Send a message and show the conversation, each refusal explained.",
    ),
    "sendmail": (
        "pillarbox.cli.commands",
        "sendmail",
        "Hand a message to the server, as programs expect it.",
    ),
    "queue": ("pillarbox.cli.queue", "queue", "List, hold, release, retry, bounce or remove messages."),
    "trace": ("pillarbox.cli.trace", "trace", "Tell what happened to a message, step by step."),
    "suppression": (
        "pillarbox.cli.suppression",
        "suppression",
        "Show and change the list of addresses to which nothing is sent.",
    ),
    "explain": (
        "pillarbox.cli.explain",
        "explain",
        "Explain a code, a reply, a transcript, a log or a bounce.",
    ),
    "lint": ("pillarbox.cli.lint", "lint", "Judge the transcript of a session by the standards."),
    "check-config": ("pillarbox.cli.check_config", "check_config", "Check a configuration file."),
    "check": ("pillarbox.cli.check", "check", "Look at a domain as the world sees it, and say what to mend."),
    "quota": ("pillarbox.cli.quota", "quota", "Show how full mailboxes are, and count them anew."),
    "dkim": ("pillarbox.cli.dkim", "dkim", "Make, list and change the keys that mail is signed with."),
    "srs": (
        "pillarbox.cli.srs",
        "srs",
        "Keep the keys of forwarded mail's senders, and read such an address.",
    ),
    "domain": (
        "pillarbox.cli.domain",
        "domain",
        "Keep domains that the server takes mail for, and tell what to publish for them.",
    ),
    "reports": ("pillarbox.cli.reports", "reports", "Read and show DMARC and TLS reports."),
    "certificate": (
        "pillarbox.cli.certificate",
        "certificate",
        "Show the certificates of the server, and renew those of an authority.",
    ),
    "tls": ("pillarbox.cli.tls", "tls", "Show how safely other domains took mail, and forget it."),
    "user": ("pillarbox.cli.user", "user", "Keep the accounts that may log in."),
}


class _Commands(click.Group):
    """A group that knows its commands' names and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, name, _help = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may be meant."""
        if args[0] not in _COMMANDS and not ctx.resilient_parsing:
            from pillarbox.mail.spelling import nearest

            close = nearest(args[0], _COMMANDS)
            advice = f" Did you mean {close!r}?" if close else ""
            ctx.fail(f"No such command {args[0]!r}.{advice}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_module, _name, about) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pillarbox")
def cli() -> None:
    """Pillarbox: a complete mail transfer agent that can always say why."""


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]}, add_help_option=True
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sendmail(arguments: tuple[str, ...]) -> None:
    """Hand the message on standard input to the server, as programs call sendmail.

    \b
    -t          take the recipients from To, Cc and Bcc
    -i, -oi     a line with a single dot does not end the message
    -f SENDER   the envelope sender; "<>" for none
    -F NAME     the full name, if the message has no From
    -N WHEN     never, or some of success,failure,delay (RFC 3461)
    -R WHAT     full or hdrs: what a report returns
    -V ENVID    an id of yours for reports
    -bs         speak SMTP on standard input and output; lines may end in LF alone
    -bp         list the queue, as mailq does
    -q          try all waiting messages now

    The server is $PILLARBOX_SENDMAIL (host:port), else the first listener in $PILLARBOX_CONFIG or
    /etc/pillarbox/pillarbox.toml that relays for this machine, else 127.0.0.1:25. A bare name becomes an address at the
    hostname of that file, else of this machine. Exit status: 0 accepted, 64 wrong use, 65 the header names what is no address,
    67 a recipient refused, 69 refused, 75 the server cannot be reached or takes no mail now.
    """  # noqa: D301 - click wants the character itself
    from pillarbox.cli.sendmail import run

    raise SystemExit(run(list(arguments)))
