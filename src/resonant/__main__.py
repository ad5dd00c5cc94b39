"""``python -m resonant`` runs ``resonant``."""

from resonant.cli import main

main()
