"""`python -m amends.cli`: the command line."""

from amends.cli.main import main

main()
