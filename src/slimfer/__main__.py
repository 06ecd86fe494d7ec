"""`python -m slimfer` is the command line."""

from slimfer.cli.app import main

if __name__ == "__main__":
    main()
