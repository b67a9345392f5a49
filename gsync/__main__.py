"""`python -m gsync` is the command `gsync`."""

from gsync.cli.main import main

if __name__ == "__main__":
    main()
