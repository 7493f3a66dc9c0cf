"""What settings of other mail servers are called here. Who moves writes them by habit."""

from __future__ import annotations

from typing import Final

# Postfix, but the last lines: Exim and Sendmail.
OTHER_NAMES: Final = {
    "home_mailbox": ("domain", "NAME", "deliver"),
    "hopcount_limit": ("limits", "hops"),
    "inet_interfaces": ("listen", "address"),
    "mailbox_transport": ("domain", "NAME", "deliver"),
    "maximal_queue_lifetime": ("queue", "retry", "give_up"),
    "message_size_limit": ("limits", "message"),
    "mydestination": ("domain", "NAME"),
    "myhostname": ("hostname",),
    "mynetworks": ("policy", "relay_networks"),
    "queue_directory": ("data",),
    "relayhost": ("route", "via"),
    "smtpd_client_connection_count_limit": ("connections", "per_address"),
    "smtpd_recipient_limit": ("limits", "recipients"),
    "smtpd_tls_cert_file": ("tls", "certificate"),
    "smtpd_tls_key_file": ("tls", "key"),
    "transport_maps": ("route", "match"),
    "virtual_alias_maps": ("domain", "NAME", "aliases_file"),
    "virtual_mailbox_domains": ("domain", "NAME"),
    "virtual_mailbox_maps": ("domain", "NAME", "users_file"),
    "local_domains": ("domain", "NAME"),
    "primary_hostname": ("hostname",),
    "relay_from_hosts": ("policy", "relay_networks"),
    "smarthost": ("route", "via"),
    "smart_host": ("route", "via"),
}
