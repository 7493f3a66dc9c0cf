"""A complete mail transfer agent that can always say why: the public names; it leaves the work to its modules."""
