"""The registry as a table: what a method computes, where it comes from, what it starts from."""

from kdlib.distillers import METHODS, Method
from kdlib.distillers.spectral import PRESETS
from kdlib.markdown import markdown_table
from kdlib.runs import RunConfig

HEAD = ["method", "loss", "weight", "options", "source"]


def methods_markdown() -> str:
    """A row a method: formula, default weight, options with their defaults, source."""
    return markdown_table(HEAD, [_row(name, method) for name, method in METHODS.items()])


def describe(name: str, method: Method) -> str:
    """The same of one method, as the command line prints it."""
    facts = [f"weight {_weight(name, method)}", *_options(name, method)]
    return f"{name:15} {method.source}\n{'':15} {method.formula}\n{'':15} {', '.join(facts)}"


def _row(name: str, method: Method) -> list[str]:
    options = ", ".join(_options(name, method)) or "–"
    return [f"`{name}`", method.formula, _weight(name, method), options, method.source]


def _weight(name: str, method: Method) -> str:
    """KD's is a field of its own, since it is added to other methods too."""
    if name == "kd":
        return f"{RunConfig().kd_weight:g}"
    return f"{method.weight:g}" if method.build else "–"


def _options(name: str, method: Method) -> list[str]:
    found = [f"{option} {value}" for option, value in method.options.items()]
    if name == "kd":
        found.append(f"temperature {RunConfig().temperature}")
    if method.warmup:
        found.append(f"warm-up over {method.warmup:.0%} of the training")
    if method.ce_weight != 1:
        found.append(f"cross-entropy {method.ce_weight:g}")
    return [*found, "those of SpectralOptions"] if name in {*PRESETS, "dct_options"} else found
