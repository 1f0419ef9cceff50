"""What no attack in a ball can change, proved."""

from robustmarl.certify.margins import certified, margin_bounds

__all__ = ["certified", "margin_bounds"]
