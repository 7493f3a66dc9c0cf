"""Where the commands look for the configuration; reading it is the business of `config`."""

import os

CONFIG_VARIABLE = "PILLARBOX_CONFIG"
CONFIG_FILE = "/etc/pillarbox/pillarbox.toml"


def named_file() -> str:
    """The file that the environment names, else the system's, which need not exist."""
    return os.environ.get(CONFIG_VARIABLE) or CONFIG_FILE
