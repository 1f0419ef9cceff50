"""Optional packages, imported when they are needed."""

import importlib
import warnings
from types import ModuleType

__all__ = ["require"]


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, which comes with the optional dependency ``extra``.

    Raises:
        ImportError: if it is not installed, with the command that installs it.
    """
    try:
        with warnings.catch_warnings():  # third parties warn about their own dependencies
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", UserWarning)
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"This needs the package {package!r}. "
            f'Install it with: pip install "robustmarl[{extra}]"'
        ) from error
