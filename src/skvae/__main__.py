"""`python -m skvae`."""

from skvae.cli import main

main()
