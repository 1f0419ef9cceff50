"""What every contract check raises."""

from collections.abc import Callable

__all__ = ["ContractError", "requirement"]


class ContractError(AssertionError):
    """A component breaks the contract that it is checked against."""


def requirement(who: str) -> Callable[[bool, str], None]:
    """Return what demands of ``who`` that it keeps a promise: ``require(kept, promise)``."""

    def require(kept: bool, promise: str) -> None:
        """Raise ``ContractError`` that names the promise unless it is ``kept``."""
        if not kept:
            raise ContractError(f"{who} must {promise}.")

    return require
