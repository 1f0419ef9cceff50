"""Progress bars of the kind that suits where they are shown: a terminal, a log, a notebook."""

import warnings
from typing import Any

import tqdm

with warnings.catch_warnings():
    warnings.simplefilter("ignore", tqdm.TqdmWarning)  # a notebook without widgets: bars of text
    import tqdm.auto

__all__ = ["progress_bar"]


def progress_bar(**how: Any) -> tqdm.tqdm:
    """Return tqdm's bar, which keeps logs that it is redirected to readable; ``how`` is tqdm's."""
    kind: Any = tqdm.auto.tqdm
    return kind(dynamic_ncols=True, mininterval=0.5, **how)  # seconds
