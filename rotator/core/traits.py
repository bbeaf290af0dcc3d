"""What a provider can do. Providers differ; everything outside a provider's package asks these traits."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Traits:
    """What a provider can do, and what messages call it."""

    label: str
    can_set_expiry: bool = True
    """The expiry of a key can be changed. Without it, a superseded key is deleted when its grace is over, and nothing
    is extended or restored."""
    keys_expire: bool = True
    """Keys have an expiry. Without it, keys are replaced by their age, and only a deletion ends one.

    Where this is False, `can_set_expiry` must be False as well.
    """
    names_keys: bool = True
    """Keys keep a name of 50 characters, as `keys.KeyName` makes it, and the list shows it. Without it, the provider is
    refused."""
    reports_use: Literal["no", "retrieve", "list"] = "no"
    """Where rotator looks for what a key has used: nowhere, in an answer about that key, or in the list too.

    Where an answer shows no use, it is unknown, and never none.
    """
    documents_use: bool = True
    """The provider's documents show where use appears. Without it, use may be missing wherever rotator looks."""
    key_pattern: str | None = None
    """A regular expression that finds a key's text in any other text. Without it, redaction knows exact keys only."""
    keys_per_page: int = 100
    """How many keys one request for the list returns."""

    def __post_init__(self) -> None:
        if self.can_set_expiry and not self.keys_expire:
            raise ValueError("can_set_expiry must be False where keys_expire is: there is no expiry to set")

    @property
    def limits(self) -> tuple[str, ...]:
        """Return a sentence for each trait that is missing: which promise of rotator is weaker."""
        limits = []
        if not self.keys_expire:
            limits.append(
                f"{self.label}'s keys never expire: rotator replaces them by their age, and a key that it cannot "
                "delete works until a sweep deletes it"
            )
        elif not self.can_set_expiry:
            limits.append(
                f"{self.label} cannot change the expiry of a key: a replaced key is deleted when its grace is over, "
                "and works until its own expiry if no replica runs then"
            )
        if not self.can_set_expiry:
            limits.append(f"{self.label}'s keys cannot be extended: `rotator extend` and a longer grace do not work")
        if self.reports_use == "no":
            limits.append(f"rotator sees no use of {self.label}'s keys, so it cannot notice that a cap is spent")
        elif not self.documents_use:
            limits.append(
                f"{self.label} does not document where it shows the use of its keys: rotator takes it from every "
                "answer that has it, and reports it as unknown until then"
            )
        if self.key_pattern is None:
            limits.append(f"{self.label}'s keys have no pattern: output hides a key only while rotator holds its text")
        return tuple(limits)
