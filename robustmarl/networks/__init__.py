"""Networks of teams: agents with or without memory, mixers and critics."""

from robustmarl.networks.agents import AgentNetwork, Agents, SeparateAgents
from robustmarl.networks.belief import BeliefNetwork, TypedAgentNetwork, TypedCritic
from robustmarl.networks.critics import Critic, JointCritic
from robustmarl.networks.decomposed import ActionCritic, WeightedMixer
from robustmarl.networks.mixers import Mixer, QMIXMixer, VDNMixer

__all__ = [
    "ActionCritic",
    "AgentNetwork",
    "Agents",
    "BeliefNetwork",
    "Critic",
    "JointCritic",
    "Mixer",
    "QMIXMixer",
    "SeparateAgents",
    "TypedAgentNetwork",
    "TypedCritic",
    "VDNMixer",
    "WeightedMixer",
]
