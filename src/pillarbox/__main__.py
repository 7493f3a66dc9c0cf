"""`python -m pillarbox` is the command line; all else is `cli`'s business."""

from pillarbox.cli import main

main()
