"""Networks of teams: agents with or without memory, mixers and critics."""

from robustmarl.networks.agents import AgentNetwork
from robustmarl.networks.critics import Critic
from robustmarl.networks.mixers import Mixer, QMIXMixer, VDNMixer

__all__ = ["AgentNetwork", "Critic", "Mixer", "QMIXMixer", "VDNMixer"]
