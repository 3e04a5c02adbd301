"""Types of what commands take, by which cyclopts reads and checks it."""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

Count = Annotated[int, Parameter(validator=Number(gte=1))]
Flag = Annotated[bool, Parameter(negative=())]
Words = Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())]
Sizes = Annotated[tuple[Count, ...], Parameter(consume_multiple=True, negative=())]
Pairs = Annotated[
    tuple[tuple[str, str], ...], Parameter(["-p", "--parameter"], negative=(), json_list=False)
]
