"""``python -m kdlib``: the command ``kdlib``, wherever it is declared."""

import sys
from importlib.metadata import entry_points

commands = [*entry_points(group="console_scripts", name="kdlib")]
if not commands:
    sys.exit(
        "The command kdlib is not installed for this Python. In a clone: make install, then "
        "source .venv/bin/activate; elsewhere: python -m pip install 'kdlib[study]'."
    )
sys.exit(commands[0].load()())
