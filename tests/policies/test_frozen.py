"""A frozen policy answers all that its original answers in evaluation."""

import inspect

import pytest
import torch
from learners import Arena, collected

from robustmarl.adversaries import ByzantineAttacker
from robustmarl.algorithms import EIRMAPPO
from robustmarl.policies import FrozenPolicy
from robustmarl.policies.base import TeamPolicy
from robustmarl.training import AdversarialTraining

OWN = {  # what belongs to the copy itself
    "__init__",
    "__setstate__",
    "_compile",
    "count",
    "counted",
    "device",
    "forward",
    "without_padding",
}


def test_it_hands_on_all_that_policies_answer():
    """Else a kind of policy that answers otherwise would be frozen into a plain one."""
    asked = {
        name
        for name, member in vars(TeamPolicy).items()
        if callable(member) or isinstance(member, property | staticmethod)
        if inspect.getattr_static(TeamPolicy, name) is member
    }
    assert asked - OWN <= set(vars(FrozenPolicy))


@pytest.mark.parametrize("belief_reads", ["seen", "clean"])
def test_beliefs_are_told_as_the_copy_acted_on_them(belief_reads):
    team = EIRMAPPO.for_env(Arena(), hidden=(8,), belief_reads=belief_reads, belief_hidden=(8,))
    attack = AdversarialTraining(team, ByzantineAttacker.against(team), team_every=None)
    frozen, told = attack.policy, []
    infer = frozen.infer

    def kept(context):
        found = infer(context)
        told.append((frozen.acted_on(context), frozen.record()))
        return found

    frozen.infer = kept
    collected(attack, 2)
    assert told
    for acted, recorded in told:
        assert torch.equal(acted["slots"], recorded["slots"])
    assert frozen.loss_victim().network is frozen.copied.network
