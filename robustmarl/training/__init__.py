"""Training loops on Tianshou's trainers: plain, adversarial, resumable."""

from robustmarl.training.adversarial import AdversarialTraining
from robustmarl.training.checkpoints import load_checkpoint
from robustmarl.training.history import Figures, History
from robustmarl.training.in_model import ModelRound, attack_in_model
from robustmarl.training.run import Callback, run
from robustmarl.training.saved import Saved, load, load_weights, save_weights
from robustmarl.training.settings import Attacks, Log, OffPolicy, OnPolicy, Tests
from robustmarl.training.trainers import (
    EpisodeOffPolicyParams,
    EpisodeOffPolicyTrainer,
    EpisodeOnPolicyTrainer,
    EpisodeTrainer,
    Trainable,
    TrainerCounters,
    is_trainable,
)

__all__ = [
    "AdversarialTraining",
    "Attacks",
    "Callback",
    "EpisodeOffPolicyParams",
    "EpisodeOffPolicyTrainer",
    "EpisodeOnPolicyTrainer",
    "EpisodeTrainer",
    "Figures",
    "History",
    "Log",
    "ModelRound",
    "OffPolicy",
    "OnPolicy",
    "Saved",
    "Tests",
    "Trainable",
    "TrainerCounters",
    "attack_in_model",
    "is_trainable",
    "load",
    "load_checkpoint",
    "load_weights",
    "run",
    "save_weights",
]
