"""The losses, one file an idea: formulas as functions, and the modules that wire them."""
