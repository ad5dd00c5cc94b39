"""``python -m resonant`` is ``resonant``."""

from resonant.cli import main

main()
