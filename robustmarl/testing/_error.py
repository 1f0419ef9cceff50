"""What every contract check raises."""

__all__ = ["ContractError"]


class ContractError(AssertionError):
    """A component breaks the contract that it is checked against."""
