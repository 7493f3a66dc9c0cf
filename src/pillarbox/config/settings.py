"""Gather the settings of all parts into one value, with defaults that are right for most.

What each part's settings mean is written where they are used; reading a file is `config`'s business.
"""

from __future__ import annotations

import socket
from typing import Literal

import msgspec

from pillarbox.inbound.etrn import EtrnSettings
from pillarbox.inbound.greeting import GreetSettings
from pillarbox.inbound.status import HelpSettings
from pillarbox.mail.units import Seconds, Settings
from pillarbox.net.listener import ConnectionLimits
from pillarbox.net.renewal import AcmeSettings
from pillarbox.net.resolver import ResolverSettings
from pillarbox.net.tls import CertificateSettings, TlsManner, TlsSettings, TlsVersion
from pillarbox.observe import LogSettings
from pillarbox.policy.accounts import AccountSettings, AuthSettings, LdapSettings, OidcSettings, SqlSettings
from pillarbox.policy.attachments import AttachmentSettings
from pillarbox.policy.author import DmarcSettings
from pillarbox.policy.checks import CheckSettings
from pillarbox.policy.dns_lists import DnsListSettings
from pillarbox.policy.domains import DomainSettings
from pillarbox.policy.emergency import EmergencySettings
from pillarbox.policy.exchangers import RecipientSettings
from pillarbox.policy.form import MessageSettings
from pillarbox.policy.forwarding import SrsSettings
from pillarbox.policy.greylist import GreylistSettings
from pillarbox.policy.harvest import HarvestSettings
from pillarbox.policy.hello import HelloSettings
from pillarbox.policy.hooks import HookSettings
from pillarbox.policy.names import DirectorySettings
from pillarbox.policy.origin_settings import ArcSettings, DkimSettings, SpfSettings
from pillarbox.policy.proxies import ProxySettings
from pillarbox.policy.rates import RateSettings
from pillarbox.policy.reporting import ReportSettings
from pillarbox.policy.reverse import ReverseSettings
from pillarbox.policy.routes import RouteSettings
from pillarbox.policy.rules import Role, RuleSettings
from pillarbox.policy.scanner import ScannerSettings
from pillarbox.policy.senders import SenderSettings
from pillarbox.policy.spam import SpamSettings
from pillarbox.policy.tarpit import TarpitSettings
from pillarbox.queue.schedule import QueueSettings
from pillarbox.queue.suppression import SuppressionSettings
from pillarbox.relay.pipe import ProgramSettings
from pillarbox.relay.session import SmtpSettings
from pillarbox.relay.webhook import WebhookSettings
from pillarbox.smtp.extensions import ExtensionSettings
from pillarbox.smtp.profile import Limits
from pillarbox.smtp.scram import PLUS

SANDBOX_SMTP = "127.0.0.1:1025"
SANDBOX_STARTTLS = "127.0.0.1:1587"
SANDBOX_TLS = "127.0.0.1:1465"
SANDBOX_CONSOLE = "127.0.0.1:8025"
DEFAULT_DATA = "/var/lib/pillarbox"


class ListenSettings(Settings, frozen=True):
    """One address to listen on: `[[listen]]`."""

    address: str
    """Host and port, such as "0.0.0.0:25", "[::]:25" or "127.0.0.1:2525"."""
    role: Role = Role.MX
    """What it is for: `mx` takes mail for our domains, `submission` that of users who log in, `relay` that of the hosts
    in `policy.relay_networks`, `lmtp` that of another mail server; `sandbox` takes everything, and makes the whole server one
    that holds all mail; `no_mail` refuses everything. `policy` serves the MTA-STS policies of our domains by HTTPS, with `tls = "implicit"`, or by HTTP
    behind a proxy, with `tls = "none"`."""
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    """Offer STARTTLS if there is a certificate, begin with TLS at once (port 465), or neither."""
    require_tls: bool = False
    """Take no mail over a connection without TLS."""
    min_tls: Literal["", TlsVersion] = ""
    """The oldest TLS that is good enough here; "" for `tls.min_version`."""
    client_certificate: Literal["", "no", "ask", "require"] = ""
    """Whether to ask clients for a certificate of `tls.client_ca`, and to refuse those without one (554); "" asks those of a
    submission listener if there is a `tls.client_ca`."""
    proxy_protocol: bool = False
    """Expect a balancer among `proxy.networks` that begins each connection with a PROXY header, version 1 or 2, and tells
    the client's address by it."""
    login_in_clear: bool = False
    """Let users log in without TLS. Passwords can then be read on the way."""


class ConsoleSettings(Settings, frozen=True):
    """The web side: metrics, health, and the reference of replies."""

    address: str = ""
    """Host and port for /metrics, /healthz, /readyz and /reference/, the meaning of each reply; "" for none."""


class Config(Settings, frozen=True):
    """Everything that the operator can set."""

    hostname: str = msgspec.field(default_factory=lambda: socket.getfqdn().lower())
    """Our name in greetings, EHLO and Received; other servers look it up. The machine's full name if not given."""
    data: str = DEFAULT_DATA
    """The folder of the queue: messages, their history, and who works on them."""
    user: str = ""
    """The user as whom the server goes on once its addresses are bound, if root starts it; "" to stay who it is."""
    workers: int = 1
    """Equal processes that share the work; 1 is enough for thousands of messages a second."""
    event_loop: Literal["uvloop", "asyncio"] = "uvloop"
    """The event loop; asyncio's own is slower."""
    drain_s: Seconds = Seconds(30)
    """How long sessions and deliveries may take to finish when the server stops."""
    hooks: tuple[str, ...] = ()
    """Python modules with hooks, asked in this order."""
    handler_limit_s: Seconds = Seconds(60)
    """How long a Python function that takes mail (`python:module:function`) may work on one message."""
    recipient_delimiter: str = "+"
    """Characters that separate the user from a tag, as in user+tag; "" for none."""
    junk_folder: str = ".Junk"
    """The folder of a Maildir that gets what was accepted with suspicion; mail readers call ".Junk" Junk. "" for the inbox."""
    postmaster: str = ""
    """Where mail for postmaster of any of our domains goes; "" for a mailbox of that name in each domain."""
    log: LogSettings = LogSettings()
    listen: tuple[ListenSettings, ...] = ()
    tls: TlsSettings = TlsSettings()
    certificates: tuple[CertificateSettings, ...] = msgspec.field(default=(), name="certificate")
    acme: AcmeSettings = AcmeSettings()
    auth: AuthSettings = AuthSettings()
    oidc: OidcSettings = OidcSettings()
    sql_accounts: SqlSettings = SqlSettings()
    ldap: LdapSettings = LdapSettings()
    policy: RuleSettings = RuleSettings()
    hook: HookSettings = HookSettings()
    help: HelpSettings = HelpSettings()
    greet: GreetSettings = GreetSettings()
    helo: HelloSettings = HelloSettings()
    sender: SenderSettings = SenderSettings()
    reverse_dns: ReverseSettings = ReverseSettings()
    dns_lists: DnsListSettings = DnsListSettings()
    rate: RateSettings = RateSettings()
    harvest: HarvestSettings = HarvestSettings()
    greylist: GreylistSettings = GreylistSettings()
    message: MessageSettings = MessageSettings()
    attachments: AttachmentSettings = AttachmentSettings()
    scanner: ScannerSettings = ScannerSettings()
    spam: SpamSettings = SpamSettings()
    recipient: RecipientSettings = RecipientSettings()
    emergency: EmergencySettings = EmergencySettings()
    connections: ConnectionLimits = ConnectionLimits()
    proxy: ProxySettings = ProxySettings()
    tarpit: TarpitSettings = TarpitSettings()
    limits: Limits = Limits()
    extensions: ExtensionSettings = ExtensionSettings()
    etrn: EtrnSettings = EtrnSettings()
    queue: QueueSettings = QueueSettings()
    suppression: SuppressionSettings = SuppressionSettings()
    relay: SmtpSettings = SmtpSettings()
    dns: ResolverSettings = ResolverSettings()
    spf: SpfSettings = SpfSettings()
    dkim: DkimSettings = DkimSettings()
    dmarc: DmarcSettings = DmarcSettings()
    arc: ArcSettings = ArcSettings()
    srs: SrsSettings = SrsSettings()
    reports: ReportSettings = ReportSettings()
    console: ConsoleSettings = ConsoleSettings()
    domains: dict[str, DomainSettings] = msgspec.field(default_factory=dict, name="domain")
    routes: tuple[RouteSettings, ...] = msgspec.field(default=(), name="route")
    accounts: dict[str, AccountSettings] = msgspec.field(default_factory=dict, name="account")
    accounts_file: str = ""
    """A file with more accounts, in tables like `[account.NAME]` here; it is read again when it changes."""
    programs: dict[str, ProgramSettings] = msgspec.field(default_factory=dict, name="program")
    webhooks: dict[str, WebhookSettings] = msgspec.field(default_factory=dict, name="webhook")

    @property
    def has_certificate(self) -> bool:
        """Whether listeners have something to show, so that they can offer TLS."""
        return bool(self.tls.certificate or self.certificates or self.acme.directory or self.tls.self_signed)

    @property
    def tls_manners(self) -> list[TlsManner | None]:
        """How each listener shakes hands; None for one that offers no TLS."""
        return [
            self._tls_manner(one) if self.has_certificate and one.tls != "none" else None
            for one in self.listen
        ]

    def _tls_manner(self, listener: ListenSettings) -> TlsManner:
        wanted = listener.client_certificate
        if not wanted:
            wanted = "ask" if listener.role is Role.SUBMISSION and self.tls.client_ca else "no"
        return TlsManner(
            asks=wanted != "no",
            demands=wanted == "require",
            binds=any(name.endswith(PLUS) for name in self.auth.mechanisms),
            min_version=listener.min_tls or self.tls.min_version,
        )

    @property
    def checks(self) -> CheckSettings:
        """What the built-in checks need to know of this."""
        return CheckSettings(**{name: getattr(self, name) for name in CheckSettings.__struct_fields__})

    @property
    def is_sandbox(self) -> bool:
        """Whether this server keeps all mail that it gets, so that none leaves this machine."""
        return any(listener.role is Role.SANDBOX for listener in self.listen)

    @property
    def directory(self) -> DirectorySettings:
        """What the directory needs to know of this. In a sandbox no name is ours, and all mail is held."""
        if self.is_sandbox:
            return DirectorySettings(routes=[RouteSettings(match="*", via="hold")])
        return DirectorySettings(
            domains=self.domains,
            routes=list(self.routes),
            recipient_delimiter=self.recipient_delimiter,
            postmaster=self.postmaster,
        )


class AccountsFile(Settings, frozen=True):
    """All that a file of accounts may hold."""

    accounts: dict[str, AccountSettings] = msgspec.field(default_factory=dict, name="account")


def sandbox(*, data: str, smtp: str = "", console: str = SANDBOX_CONSOLE) -> Config:
    """A server for developers: it takes everything, holds it in `data`, and lets nothing leave this machine.

    Without `smtp` it listens for TLS, too, at addresses of their own: many clients use STARTTLS wherever it is offered, and then
    refuse a certificate that nobody vouches for.
    """
    encrypted: tuple[tuple[str, Literal["starttls", "implicit"]], ...] = (
        () if smtp else ((SANDBOX_STARTTLS, "starttls"), (SANDBOX_TLS, "implicit"))
    )
    return Config(
        hostname="sandbox.localhost",
        data=data,
        listen=(
            ListenSettings(address=smtp or SANDBOX_SMTP, role=Role.SANDBOX, tls="none"),
            *(ListenSettings(address=one, role=Role.SANDBOX, tls=tls) for one, tls in encrypted),
        ),
        tls=TlsSettings(self_signed=bool(encrypted)),
        console=ConsoleSettings(address=console),
    )
