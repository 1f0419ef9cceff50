"""Networks of teams: agents with or without memory, mixers, critics, beliefs."""

from robustmarl.networks.agents import AgentNetwork, Agents, SeparateAgents
from robustmarl.networks.belief import BeliefNetwork, TypedAgentNetwork, TypedCritic
from robustmarl.networks.critics import ActionCritic, Critic, JointCritic
from robustmarl.networks.mixers import AgentValues, Mixer, QMIXMixer, VDNMixer, WeightedMixer
from robustmarl.networks.normalizer import ValueNormalizer

__all__ = [
    "ActionCritic",
    "AgentNetwork",
    "AgentValues",
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
    "ValueNormalizer",
    "WeightedMixer",
]
