"""May they? Limits, the directory of domains and mailboxes, hooks, and the rules built from them."""
