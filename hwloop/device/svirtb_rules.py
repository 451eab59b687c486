"""The rules of seed 002 as a table: where each stands, how binding it is (RFC 2119), and whom it binds.

The device model names the rule that a driver broke. What a device owes its driver is checked by the driver, and named
in its errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Keyword(Enum):
    """How binding a rule is, in the words of RFC 2119, which seed 002 uses (1.1)."""

    MUST = "MUST"
    MUST_NOT = "MUST NOT"
    REQUIRED = "REQUIRED"
    SHALL = "SHALL"
    SHALL_NOT = "SHALL NOT"
    SHOULD = "SHOULD"
    SHOULD_NOT = "SHOULD NOT"
    RECOMMENDED = "RECOMMENDED"
    MAY = "MAY"
    OPTIONAL = "OPTIONAL"

    @property
    def absolute(self) -> bool:
        """Whether there is no reason for which the rule may be set aside."""
        return self in _ABSOLUTE


_ABSOLUTE = (Keyword.MUST, Keyword.MUST_NOT, Keyword.REQUIRED, Keyword.SHALL, Keyword.SHALL_NOT)


@dataclass(frozen=True)
class Rule:
    """One rule: its `section`, its `keyword`, and the same in our words."""

    section: str
    keyword: Keyword
    text: str

    def __str__(self) -> str:
        return f"seed 002, {self.section}: {self.keyword.value}"


# --- What binds the driver --------------------------------------------------------------------------------------------

CHECK_MAGIC = Rule("3, step 1", Keyword.MUST, "the magic is looked for first")
WRITE_DRIVER_OK = Rule("3, step 2", Keyword.MUST, "DRIVER_OK is written to a device that shows the magic, once")
READ_DRIVER_OK_BACK = Rule("3, step 3", Keyword.MUST, "DRIVER_OK is read back before the ring is configured")
CONFIGURE_RING = Rule("3, step 4", Keyword.MUST, "size and both halves of the address are given before READY")
WRITE_READY = Rule("3, step 5", Keyword.MUST, "READY is written to a device that is configured, once")
READ_READY_BACK = Rule("3, step 6", Keyword.MUST, "READY is read back before the device is used")
CONFIGURE_AFTER_DRIVER_OK = Rule("2.1.1", Keyword.MUST, "the ring is configured after DRIVER_OK, and before READY")
SET_KNOWN_STATUS = Rule("2.1.1", Keyword.MUST, "the status says which step was taken, in the values there are")
NEVER_SET_MAGIC = Rule("2.1.1", Keyword.MUST_NOT, "the magic is the device's to write")
GIVE_A_RING = Rule("2.1.2", Keyword.MUST, "the ring has entries, and all of them are memory of the driver's")
NO_EARLY_DOORBELL = Rule("3", Keyword.MUST_NOT, "no doorbell before READY")
NO_WRITTEN_TAIL = Rule("2", Keyword.MUST_NOT, "the tail is the device's to write")
KEEP_WITHIN_RING = Rule("2.2", Keyword.MUST, "the head moves over entries that were free")
FILL_ENTRY = Rule("2.2.1", Keyword.MUST, "an entry reads into or writes from memory that the device may use so")

# --- What binds the device --------------------------------------------------------------------------------------------

SHOW_MAGIC = Rule("2.1.2", Keyword.MUST, "the magic shows at start and after every reset")
VALIDATE_RING = Rule("2.1.2", Keyword.MUST, "READY shows only after size and address were looked at")
ASK_FOR_RESET = Rule("2.1.2", Keyword.SHOULD, "a device in error shows RESET")
NO_WRITTEN_HEAD = Rule("2", Keyword.MUST_NOT, "the head is the driver's to write")
REPORT_CONSUMED = Rule("2.2", Keyword.MUST, "the tail says what was consumed, and no more")

RULES = {name: value for name, value in vars().items() if isinstance(value, Rule)}
"""All of them, by name."""
