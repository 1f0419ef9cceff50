"""ROMANCE's attackers: whom to attack in which step, when there are only so many attacks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from robustmarl._checks import check, check_int, check_kind, check_names, check_number
from robustmarl._seeding import generator
from robustmarl.joint import TeamSpec, joint_state
from robustmarl.networks.layers import check_widths

__all__ = [
    "Attackers",
    "attack_policy",
    "reference_policy",
    "smoothed",
    "soft_backup",
]

_FLOOR = 0.02  # of an attacker's probabilities while it explores: the release's


def reference_policy(able: Tensor, rate: float) -> Tensor:
    r"""Return :math:`p_{ref}`, (..., N+1): rarely attack, each agent alike; else nobody.

    .. math:: p_{ref} = (\delta_0 / N, \ldots, \delta_0 / N, 1 - \delta_0)

    What agents have that cannot be attacked goes to nobody, who is last.

    Args:
        able: who can be chosen, bool (..., N+1); the last, nobody, always can.
        rate: :math:`\delta_0`, the share of steps with an attack, in (0, 1].
    """
    each = able[..., :-1].float() * (rate / (able.shape[-1] - 1))
    nobody = (1.0 - each.sum(dim=-1, keepdim=True)).clamp(min=0.0)
    if rate == 1.0:  # what rounding leaves is weighed by the exponential of a value
        nobody = nobody.masked_fill(able[..., :-1].all(dim=-1, keepdim=True), 0.0)
    return torch.cat([each, nobody], dim=-1)


def attack_policy(q: Tensor, reference: Tensor, soft: float) -> Tensor:
    r"""Return :math:`\hat\pi(k) \propto p_{ref}(k)\, e^{Q(k)/\lambda}`, (..., N+1).

    Args:
        q: values of attacking each agent, and nobody, (..., N+1).
        reference: :math:`p_{ref}`, likewise.
        soft: :math:`\lambda` > 0, in units of the reward.
    """
    return (reference.log() + q / soft).softmax(dim=-1)


def soft_backup(q: Tensor, reference: Tensor, soft: float) -> Tensor:
    r"""Return :math:`\lambda \log \sum_k p_{ref}(k)\, e^{Q(k)/\lambda}`, (...,).

    It is what :func:`attack_policy` earns, less :math:`\lambda` times its divergence from the
    reference; the arguments are the same.
    """
    return soft * (reference.log() + q / soft).logsumexp(dim=-1)


def smoothed(policy: Tensor, able: Tensor, floor: float) -> Tensor:
    r"""Return :math:`(1 - nb)\,\hat\pi + b` over the n choices that are ``able``, 0 elsewhere.

    Args:
        policy: :math:`\hat\pi`, (..., N+1).
        able: who can be chosen, bool (..., N+1).
        floor: b, at most 1 / (N+1).
    """
    number = able.sum(dim=-1, keepdim=True)
    return torch.where(able, (1.0 - number * floor) * policy + floor, 0.0)


class Attackers(nn.Module):
    r"""Several attackers of one team as one network: the values of attacking whom.

    Each is an MLP of its own from the team's state and the share of the budget that is left,

    .. math:: \hat Q_j(s, 1 - n_{used} / K) \in \mathbb{R}^{N+1},

    of which the last is the value of attacking nobody.

    Args:
        spec: of the team that is attacked; discrete actions.
        number: of attackers, >= 1; 4 is the release's.
        budget: K, the attacks in an episode at most, >= 0; 6 is the release's, which was run
            with 8 on 2s3z and 3s_vs_3z.
        agents: names of those who may be attacked; None is all.
        hidden: widths of the hidden layers.
        rate: :math:`\delta_0` of :func:`reference_policy`, in (0, 1].
        soft: :math:`\lambda` of :func:`attack_policy`, > 0, in units of the reward.
        floor: b of :func:`smoothed`, in [0, 1 / (N+1)]; None is .02, the release's, or half of the
            most where that is less: with 25 agents and more a draw still is a choice.
        seed: of the initial weights.

    Raises:
        ValueError: for a team of continuous actions, which have no worst one; for numbers out of
            range.

    Example:
        >>> from robustmarl import envs, joint
        >>> attackers = Attackers(joint.spec_of(envs.ToyGame()), number=4)
        >>> attackers(torch.zeros(7, attackers.features)).shape  # 4 attackers: 2 agents, or nobody
        torch.Size([4, 7, 3])
    """

    attackable: Tensor

    def __init__(
        self,
        spec: TeamSpec,
        *,
        number: int = 4,
        budget: int = 6,
        agents: Collection[str] | None = None,
        hidden: tuple[int, ...] = (64, 64),
        rate: float = 0.05,
        soft: float = 0.04,
        floor: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_kind(f"{name}.spec", spec, TeamSpec, "a TeamSpec", "Write spec_of(env).")
        kind = "continuous" if spec.continuous else "discrete"
        rule = "of discrete actions: there is a worst one among them"
        check(not spec.continuous, f"{name}.spec", rule, kind)
        names = spec.agents if agents is None else agents
        self.agents = check_names(f"{name}.agents", names, spec.agents)
        check(len(self.agents) > 0, f"{name}.agents", "at least one name, or None for all", agents)
        self.spec, self.number = spec, check_int(f"{name}.number", number, 1)
        self.budget = check_int(f"{name}.budget", budget, 0)
        self.rate = check_number(f"{name}.rate", rate, 0.0, 1.0, open_low=True)
        self.soft = check_number(f"{name}.soft", soft, 0.0, open_low=True, unit="rewards")
        most = 1.0 / (spec.num_agents + 1)
        floor = min(_FLOOR, most / 2.0) if floor is None else floor
        self.floor = check_number(f"{name}.floor", floor, 0.0, most)
        self.seed = check_int(f"{name}.seed", seed, 0)
        self.hidden = check_widths(f"{name}.hidden", hidden)
        self.sizes = (self.features, *self.hidden, spec.num_agents + 1)
        attackable = torch.tensor([agent in self.agents for agent in spec.agents])
        self.register_buffer("attackable", attackable, persistent=False)
        layers = [
            nn.Parameter(torch.empty(self.number, *shape))
            for fan_in, fan_out in pairwise(self.sizes)
            for shape in ((fan_in, fan_out), (1, fan_out))
        ]
        self.layers = nn.ParameterList(layers)
        for index in range(self.number):
            self.renew(index, "attackers", index)

    @property
    def features(self) -> int:
        """How many numbers an attacker is shown."""
        return self.spec.joint_state_size + 1

    @torch.no_grad()
    def renew(self, index: int, *purpose: int | str) -> None:
        """Give an attacker new weights, which follow from the seed and ``purpose``."""
        draws = generator(self.seed, *purpose)
        for weight, bias in self._linear():
            bound = weight.shape[1] ** -0.5  # torch's own draw of a linear layer
            for values in (weight, bias):
                drawn = torch.empty(values.shape[1:]).uniform_(-bound, bound, generator=draws)
                values[index] = drawn.to(values)

    @torch.no_grad()
    def take(self, index: int, other: Attackers, of: int) -> None:
        """Give an attacker the weights of the attacker ``of`` of ``other``."""
        for own, others in zip(self.layers, other.layers, strict=True):
            own[index] = others[of]

    def seen(self, state: Tensor, used: Tensor) -> Tensor:
        """Return what attackers are shown, (..., F).

        Args:
            state: of the team, as environments give it: (..., S) or (..., N, S).
            used: attacks that there were in the episode, (...,).
        """
        left = 1.0 - used / max(self.budget, 1)
        return torch.cat([joint_state(state, self.spec), left.unsqueeze(-1)], dim=-1)

    def able(self, alive: Tensor, used: Tensor) -> Tensor:
        """Return whom they can choose, bool (..., N+1): the living while attacks are left, nobody.

        Args:
            alive: bool (..., N).
            used: as of :meth:`seen`.
        """
        left = (used < self.budget).unsqueeze(-1)
        agents = alive & self.attackable & left
        return torch.cat([agents, torch.ones_like(left)], dim=-1)

    def forward(self, seen: Tensor) -> Tensor:
        """Return all attackers' values, (J, ..., N+1), given what they are shown, (..., F)."""
        rows = seen.reshape(-1, self.features).expand(self.number, -1, -1)
        for number, (weight, bias) in enumerate(self._linear()):
            rows = torch.baddbmm(bias, rows if number == 0 else rows.relu(), weight)
        return rows.view(self.number, *seen.shape[:-1], -1)

    def policies(self, q: Tensor, able: Tensor, *, explore: bool) -> Tensor:
        """Return all attackers' probabilities of attacking whom, (J, ..., N+1).

        Args:
            q: their values, (J, ..., N+1).
            able: whom they can choose, bool (..., N+1).
            explore: whether they are smoothed.
        """
        policy = attack_policy(q, reference_policy(able, self.rate), self.soft)
        return smoothed(policy, able, self.floor) if explore else policy

    def _linear(self) -> Sequence[tuple[Tensor, Tensor]]:
        """Return the weights (J, I, O) and biases (J, 1, O) of each layer."""
        layers = list(self.layers)
        return list(zip(layers[::2], layers[1::2], strict=True))
