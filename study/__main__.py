"""The command ``kdlib``; where packages are missing it names the extra that brings them."""

import sys


def main() -> int:
    """Run the command line of :mod:`study.cli`; returns the exit status."""
    try:
        from study.cli import main as command
    except ModuleNotFoundError as error:
        print(f"{error}. Install: python -m pip install 'kdlib[study]'", file=sys.stderr)
        return 2
    return command()


if __name__ == "__main__":
    sys.exit(main())
