"""The commands about domains.

Each is in a module of its own.
"""

from __future__ import annotations

import click

from pillarbox.cli.domain_dns import dns
from pillarbox.cli.show import Group


@click.group(cls=Group)
def domain() -> None:
    """Tell what to publish for the domains that the server takes mail for."""


domain.add_command(dns)
