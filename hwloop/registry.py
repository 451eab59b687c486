"""A table of named members: transports, HALs, device drivers, commands.

A member is registered by its import path, so that a table can be listed without importing what it names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Generic, TypeVar, cast

from hwloop.errors import InvalidParam

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps a name to a member, imported when it is first asked for.

    `kind` is the word that errors use; `members` maps a name to `module:attribute`.
    """

    def __init__(self, kind: str, members: Mapping[str, str]) -> None:
        self.kind = kind
        self._members = dict(members)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def get(self, name: str) -> T:
        """The member of that name. Raises InvalidParam, listing the names there are."""
        if name not in self._members:
            known = ", ".join(sorted(self._members))
            raise InvalidParam(f"no {self.kind} is called {name!r}", remedy=f"choose one of: {known}")
        module, _, attribute = self._members[name].partition(":")
        return cast(T, getattr(import_module(module), attribute))
