"""Run the command with ``python -m loadclient``."""

from loadclient.cli import main

if __name__ == "__main__":
    main()
