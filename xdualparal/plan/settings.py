"""How a user's settings are declared: once, with their owner; launch flags and documentation follow.

Knows: dataclass fields. Must not know: any setting.
"""

from dataclasses import dataclass, field, fields

from ..limits import plain


def setting(default, help, value=None):
    """A field of a Settings class. ``help``: what it means, a phrase. ``value``: what help texts call the value; by default
    what its type is called."""
    return field(default=default, metadata={"help": help, "value": value})


@dataclass(frozen=True)
class Settings:
    """Inert, documented values. An owner declares its fields in a subclass and refuses bad ones in ``check``; several owners'
    classes can be bases of one."""

    def __post_init__(self):
        for one in fields(self):
            object.__setattr__(self, one.name, plain(getattr(self, one.name)))
        for owner in type(self).__mro__:
            if "check" in vars(owner):
                owner.check(self)
