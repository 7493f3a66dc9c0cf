"""Fuzz one target: `fuzz/run.py TARGET [SECONDS]`. Needs Atheris (`make fuzz` installs it); what is found lies in the folder given.

New inputs are kept in build/fuzz/TARGET, not in the corpus of the repository.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent
with atheris.instrument_imports(include=["pillarbox"]):
    sys.path.insert(0, str(HERE))
    import targets


def main() -> None:
    name, seconds = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "60"
    grown = HERE.parent / "build" / "fuzz" / name
    grown.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        "-max_len=4096",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
        f"-artifact_prefix={grown}/",
        f"-dict={HERE / 'smtp.dict'}",
    ]
    atheris.Setup([sys.argv[0], *options, str(grown), str(HERE / "corpus" / name)], targets.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
