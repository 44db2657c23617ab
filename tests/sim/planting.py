"""Bugs planted in the product: a function of it with one place changed."""

import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from unittest.mock import patch


@dataclass(frozen=True)
class Bug:
    """``owner``'s ``function`` (of a class or module) with ``right`` replaced by ``wrong``. ``found_at``: the
    first seed that found it when this was written."""

    what: str
    owner: object
    function: str
    right: str
    wrong: str
    found_at: int = 1

    @contextmanager
    def planted(self) -> Iterator[None]:
        """While it lasts the bug is in this process. Fails when the place is not there any more."""
        found = inspect.getattr_static(self.owner, self.function)
        target = found.fget if isinstance(found, property) else found
        if isinstance(target, classmethod):
            target = target.__func__
        assert isinstance(target, FunctionType)
        source = textwrap.dedent(inspect.getsource(target))
        assert source.count(self.right) == 1, f"{self.function} has changed: {self.right!r} is not in it once"
        names: dict[str, object] = {}
        code = compile(source.replace(self.right, self.wrong), f"<{self.what}>", "exec")
        exec(code, vars(sys.modules[target.__module__]), names)
        with patch.object(self.owner, self.function, names[target.__name__]):
            yield
