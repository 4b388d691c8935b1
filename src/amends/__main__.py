"""`python -m amends`: the command line."""

from amends.cli.main import main

main()
