"""Cells on a Ray cluster."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from typing_extensions import override

from robustmarl.evaluation.executors import Died, Ended, Failed, Order, Pool, failed, perform

__all__ = ["RayPool"]


class RayPool(Pool):
    """A Ray cluster: the one that Ray is connected to or finds, or one that is started here."""

    def __init__(self, jobs: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise ImportError(
                "run_cells.executor 'ray' must find Ray, which is not installed. "
                "pip install 'robustmarl[ray]', or use executor='processes'."
            ) from error
        self._ray, self._jobs = ray, jobs
        self._connected = not ray.is_initialized()
        if self._connected:
            try:
                ray.init(address="auto", log_to_driver=False)
            except ConnectionError:
                ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False)
        # A task that is begun again is counted here, as with processes.
        self._perform = ray.remote(num_cpus=1, max_retries=0)(_perform)
        self._busy: dict[Any, str] = {}

    @property
    @override
    def has_room(self) -> bool:
        return len(self._busy) < self._jobs

    @property
    @override
    def is_busy(self) -> bool:
        return bool(self._busy)

    @override
    def start(self, order: Order) -> None:
        from ray import cloudpickle

        self._busy[self._perform.remote(sys.path, cloudpickle.dumps(order))] = order.name

    @override
    def wait(self) -> list[Ended]:
        ready, _ = self._ray.wait(list(self._busy))
        return [(self._busy.pop(ref), self._outcome(ref)) for ref in ready]

    def _outcome(self, ref: Any) -> str | Failed | Died:
        try:
            found: str | Failed = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            return Died(f"in Ray: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
        return found

    @override
    def close(self, *, orderly: bool) -> None:
        for ref in self._busy:
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(ref, force=True)
        self._busy = {}
        if self._connected:
            self._ray.shutdown()


def _perform(path: list[str], message: bytes) -> str | Failed:
    """Run one cell in a worker of Ray, which finds what the driver finds."""
    import pickle

    import torch

    torch.set_num_threads(1)
    sys.path.extend(place for place in path if place not in sys.path)
    try:
        order = pickle.loads(message)
    except Exception as error:
        return failed(error)
    return perform(order, position=None)
