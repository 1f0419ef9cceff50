"""Contracts: checks that anybody can run on their own components."""

from robustmarl.testing._error import ContractError
from robustmarl.testing.adversaries import check_adversary
from robustmarl.testing.algorithms import check_algorithm
from robustmarl.testing.attacks import check_attack
from robustmarl.testing.engines import check_engine
from robustmarl.testing.envs import check_env
from robustmarl.testing.losses import check_loss
from robustmarl.testing.perturbers import check_perturber
from robustmarl.testing.wrappers import check_wrapper

__all__ = [
    "ContractError",
    "check_adversary",
    "check_algorithm",
    "check_attack",
    "check_engine",
    "check_env",
    "check_loss",
    "check_perturber",
    "check_wrapper",
]
