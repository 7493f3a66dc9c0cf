"""Write the reference of replies into the package, from where the console shows it."""

from __future__ import annotations

from pathlib import Path

from pillarbox.console import SITE
from pillarbox.console.site import build

if __name__ == "__main__":
    pages = build(Path(__file__).parent / "transcripts", SITE)
    print(f"{pages} pages, to be opened at {SITE / 'index.html'}")
