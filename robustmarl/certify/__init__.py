"""What no attack in a ball can change, proved."""

from robustmarl.certify.margins import BoundMethod, certified, margin_bounds, possible_actions

__all__ = ["BoundMethod", "certified", "margin_bounds", "possible_actions"]
