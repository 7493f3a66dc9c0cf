"""Write the reference of replies before a wheel is packed, so that an installed console has it; for hatchling."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ReferenceHook(BuildHookInterface[Any]):
    """Runs `docs/site.py` in the environment of the build; an editable install has no use for it."""

    def dependencies(self) -> list[str]:
        """The program itself needs what it always needs."""
        return list(self.metadata.core.dependencies)

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del build_data
        if version != "editable":
            root = Path(self.root)
            environment = {"PYTHONPATH": str(root / "src")}
            subprocess.run([sys.executable, root / "docs/site.py"], env=environment, check=True)  # noqa: S603
