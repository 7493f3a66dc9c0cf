"""Mail on its way out: to other hosts, and into mailboxes, programs and web services here."""
