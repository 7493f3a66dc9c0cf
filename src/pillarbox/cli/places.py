"""Where the commands look for the configuration, and where they lie themselves.

Reading the configuration is the business of `config`.
"""

import os
import sys

_NAME = "pillarbox"
CONFIG_VARIABLE = "PILLARBOX_CONFIG"
CONFIG_FILE = "/etc/pillarbox/pillarbox.toml"


def named_file() -> str:
    """The file that the environment names, else the system's, which need not exist."""
    return os.environ.get(CONFIG_VARIABLE) or CONFIG_FILE


def own_command() -> str:
    """What to type in this folder to run this program: its name if the shell finds it by that, else its path."""
    import shlex
    import shutil
    from pathlib import Path

    script = Path(sys.argv[0])
    if script.name != _NAME:
        script = Path(sys.executable).with_name(_NAME)
    if not script.exists():
        return f"{shlex.quote(sys.executable)} -m {_NAME}"
    found = shutil.which(_NAME)
    if found is not None and script.samefile(found):
        return _NAME
    whole = script.absolute()
    near = os.path.relpath(whole)
    ways = (near if "/" in near else f"./{near}", str(whole))
    return shlex.quote(min(ways, key=len))
