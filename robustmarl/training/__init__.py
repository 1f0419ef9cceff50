"""Training loops on Tianshou's trainers: plain, adversarial, resumable."""

from robustmarl.training.adversarial import AdversarialTraining
from robustmarl.training.checkpoints import load_checkpoint, load_weights, save_weights
from robustmarl.training.run import History, run
from robustmarl.training.trainers import EpisodeOffPolicyTrainer, EpisodeOnPolicyTrainer

__all__ = [
    "AdversarialTraining",
    "EpisodeOffPolicyTrainer",
    "EpisodeOnPolicyTrainer",
    "History",
    "load_checkpoint",
    "load_weights",
    "run",
    "save_weights",
]
