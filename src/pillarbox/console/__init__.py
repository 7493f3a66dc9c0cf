"""What an operator looks at with a browser or a monitoring system."""

from pathlib import Path

SITE = Path(__file__).parent / "reference"  # where the reference of replies lies; written by `make docs`
