"""Networks of teams: agents with or without memory, mixers, critics, beliefs."""

from robustmarl.networks.agents import AgentNetwork, Agents, AgentSettings, SeparateAgents
from robustmarl.networks.belief import BeliefNetwork, TypedAgentNetwork, TypedCritic
from robustmarl.networks.conv import Conv, ConvAgentNetwork
from robustmarl.networks.critics import (
    ActionCritic,
    Critic,
    CriticSettings,
    FactoredCritic,
    JointCritic,
)
from robustmarl.networks.fop import FOPMixer
from robustmarl.networks.mixers import AgentValues, Mixer, QMIXMixer, VDNMixer, WeightedMixer
from robustmarl.networks.normalizer import ValueNormalizer
from robustmarl.networks.protocol import Extra, TeamNetwork

__all__ = [
    "ActionCritic",
    "AgentNetwork",
    "AgentSettings",
    "AgentValues",
    "Agents",
    "BeliefNetwork",
    "Conv",
    "ConvAgentNetwork",
    "Critic",
    "CriticSettings",
    "Extra",
    "FOPMixer",
    "FactoredCritic",
    "JointCritic",
    "Mixer",
    "QMIXMixer",
    "SeparateAgents",
    "TeamNetwork",
    "TypedAgentNetwork",
    "TypedCritic",
    "VDNMixer",
    "ValueNormalizer",
    "WeightedMixer",
]
