"""Number the sessions of a worker, so that what the log says of one can be told from what it says of others.

A number is not used again after a restart, and no two workers use the same.
"""

from __future__ import annotations

import itertools
import secrets

SESSION_NUMBERS = map(f"{secrets.token_hex(3)}-{{}}".format, itertools.count(1))
