"""``python -m kdlib``: the command ``kdlib``, wherever it is declared."""

import sys
from importlib.metadata import entry_points

(command,) = entry_points(group="console_scripts", name="kdlib")
sys.exit(command.load()())
