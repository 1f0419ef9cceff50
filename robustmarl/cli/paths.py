"""Files that commands write: checked before hours of work, not after."""

import errno
import os
from pathlib import Path

from robustmarl._checks import check, writing

__all__ = ["output"]


def output(option: str, path: Path, ending: str, *inputs: Path | None) -> Path:
    """Return a file that can be written, in a folder that is there now.

    Args:
        option: that named it.
        path: of the file.
        ending: that it has to have, such as ``".pt"``.
        inputs: files that it must not be.

    Raises:
        ValueError: for another ending, a folder, an input, or where nothing can be written.
    """
    rule = f"a file name that ends in {ending}"
    check(path.suffix == ending, option, rule, str(path), f"Write {path.with_suffix(ending)}.")
    check(not path.is_dir(), option, "a file, not a folder", str(path))
    taken = [one for one in inputs if one is not None and one.resolve() == path.resolve()]
    check(not taken, option, "another file than one that is read", str(path))
    with writing(option, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return path
