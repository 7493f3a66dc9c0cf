"""Where the commands look for the configuration; reading it is the business of `config`."""

CONFIG_VARIABLE = "PILLARBOX_CONFIG"
CONFIG_FILE = "/etc/pillarbox/pillarbox.toml"
