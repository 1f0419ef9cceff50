"""Networks of teams: agents with or without memory, mixers and critics."""

from robustmarl.networks.agents import AgentNetwork
from robustmarl.networks.belief import BeliefNetwork, TypedAgentNetwork, TypedCritic
from robustmarl.networks.critics import Critic
from robustmarl.networks.decomposed import ActionCritic, WeightedMixer
from robustmarl.networks.mixers import Mixer, QMIXMixer, VDNMixer

__all__ = [
    "ActionCritic",
    "AgentNetwork",
    "BeliefNetwork",
    "Critic",
    "Mixer",
    "QMIXMixer",
    "TypedAgentNetwork",
    "TypedCritic",
    "VDNMixer",
    "WeightedMixer",
]
