"""A learned model of an environment, in which teams can be played as if it were real."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor, nn
from torch.nn import functional as F

from robustmarl._checks import check, check_flag, check_int, check_kind, check_number, check_usable
from robustmarl._seeding import Draws, episode_keys, generator, seeded, stream_seed
from robustmarl.joint import JointBatch, TeamSpec
from robustmarl.learning.imagined import ImaginedEngine
from robustmarl.learning.optim import adam, follow
from robustmarl.networks.layers import check_widths, feed_forward

__all__ = ["Fitted", "Foretold", "WorldModel"]

_TINY = 1e-6  # of a spread: what varies less does not vary

_MARGIN = 0.25
"""Of the recorded range of a number: so far beyond it may be foretold. Networks know nothing of
what they never saw, and an imagined episode that went astray would go to infinity."""


_GRAIN = 2.0**-32
"""Of the range of a number: what is shown is a multiple of it; finer than a float in most of it."""


@dataclass(frozen=True)
class Fitted:
    """How well a model foretells steps that were held out, as shares explained: 1 is all.

    It is the mean of its members that is measured.

    Attributes:
        obs: of what observations and states become, less what they were; nan where they stay.
        reward: of rewards; nan where those held out are all the same, and tell nothing.
        ended: share of steps foretold right, whether they end their episode for good.
        steps: real steps that it was fitted to.
        held_out: steps on which it was measured.
    """

    obs: float
    reward: float
    ended: float
    steps: int
    held_out: int


@dataclass(frozen=True)
class Foretold:
    """What E joint actions lead to, by one member of the ensemble each.

    Attributes:
        obs: joint observations after them, (E, N, D); all in doubles.
        state: the global state, (E, S') with all of it on one axis.
        rew_agents: (E, N).
        ended: probability that the episode ends for good, (E,).
    """

    obs: Tensor
    state: Tensor
    rew_agents: Tensor
    ended: Tensor


class WorldModel(nn.Module):
    r"""An environment as it is found from recorded steps: what joint actions lead to.

    .. math:: (o', s') = (o, s) + f(o, s, a) + \eta, \qquad r = g(o, s, a), \qquad
              P(\text{end}) = \sigma(h(o, s, a))

    with the joint observation o, the global state s and the joint action a that was executed. f, g
    and h are heads of one network, of which there is a small ensemble; in an episode one member,
    drawn at random, foretells everything. :math:`\eta` is what its f left of a real step drawn at
    random among those that it was never fitted to, so that a random environment stays as random as
    it is: as if its chance did not depend on where it is. Numbers stay near the range in which they
    were recorded. Nothing else is modelled, which is why agents that die or come late, and actions
    that are not always available, are refused. What neither o nor s shows, it cannot know.

    An attack on a team needs the team, too: that is not learned but played, and the attack's
    generator goes through its network as ever. ``make_engine`` makes the model an environment
    that ``training.run`` takes.

    Args:
        spec: the team's.
        horizon: steps after which an imagined episode is cut off, at most the spec's; None is that.
        anywhere: begin imagined episodes at any recorded step, where memories of agents are empty
            that were not in truth; False begins them at recorded first steps.
        members: networks in the ensemble, >= 1.
        hidden: widths of their hidden layers.
        device: where it is fitted and played.
        seed: of the weights and of the order in which it is fitted.

    Example:
        >>> from robustmarl import envs
        >>> from robustmarl.joint import spec_of
        >>> model = WorldModel(spec_of(envs.SignalMatching()), members=2, hidden=(8,), seed=0)
        >>> len(model.members)
        2
    """

    def __init__(
        self,
        spec: TeamSpec,
        *,
        horizon: int | None = None,
        anywhere: bool = False,
        members: int = 3,
        hidden: tuple[int, ...] = (128, 128),
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_kind(f"{name}.spec", spec, TeamSpec, "a TeamSpec", "Write spec_of(env).")
        limit = spec.horizon if horizon is None else horizon
        self.horizon = check_int(f"{name}.horizon", limit, 1, spec.horizon)
        self.spec, self.anywhere = spec, check_flag(f"{name}.anywhere", anywhere)
        members = check_int(f"{name}.members", members, 1)
        hidden = check_widths(f"{name}.hidden", hidden)
        self.seed = check_int(f"{name}.seed", seed, 0)
        device = check_usable(f"{name}.device", device)
        self.obs_numbers = spec.num_agents * spec.obs_size
        seen = self.obs_numbers + spec.joint_state_size
        acted = spec.num_agents * spec.num_actions
        outputs = seen + spec.num_agents + 1  # changes, rewards, the end
        with seeded(self.seed, "world"):
            self.members = nn.ModuleList(
                feed_forward((seen + acted, *hidden, outputs)) for _ in range(members)
            )
        for part, size in (("input", seen), ("change", seen), ("reward", spec.num_agents)):
            self.register_buffer(f"{part}_mean", torch.zeros(size))
            self.register_buffer(f"{part}_std", torch.ones(size))
        self.register_buffer("low", torch.zeros(seen))
        self.register_buffer("high", torch.zeros(seen))
        self.starts = torch.zeros(0, seen)
        self.residuals = torch.zeros(members, 0, seen)
        self.ends = False
        # in doubles: sums over other numbers of rows differ in bits that rounding to floats drops,
        # so that an episode is the same whatever plays beside it
        self.to(device, torch.float64)

    input_mean: Tensor
    input_std: Tensor
    change_mean: Tensor
    change_std: Tensor
    reward_mean: Tensor
    reward_std: Tensor
    low: Tensor
    high: Tensor

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.input_mean.device

    def fit(
        self,
        batch: JointBatch,
        *,
        updates: int = 1_000,
        batch_size: int = 256,
        held_out: float = 0.1,
        optim: OptimizerFactory | None = None,
    ) -> Fitted:
        """Fit the ensemble to recorded episodes from its present weights, and say how well.

        Which steps are held out follows from their places in the batch: where it grows, oldest
        episodes first, a step that was held out once is so in every further fit.

        Args:
            batch: episodes of the team, with what was executed.
            updates: optimizer steps, >= 1.
            batch_size: steps of each, drawn anew for every member, >= 1.
            held_out: chance of a step to be one of those that it is measured on and never fitted
                to, in (0, 1). The first one always is, the second one never.
            optim: optimizer factory; None is Adam at 1e-3.

        Raises:
            ValueError: for episodes of what it does not model; see the class.
        """
        name = f"{type(self).__name__}.fit"
        updates = check_int(f"{name}.updates", updates, 1)
        batch_size = check_int(f"{name}.batch_size", batch_size, 1)
        held_out = check_number(
            f"{name}.held_out", held_out, 0.0, 1.0, open_low=True, open_high=True
        )
        self._check_modelled(f"{name}.batch", batch)
        given, change, reward, ended = self._steps(batch)
        rule = "of two steps at least, one of which is held out"
        check(len(given) > 1, f"{name}.batch", rule, len(given))
        kept = self._held_out(len(given), held_out)
        test, train = (rows.nonzero()[:, 0].to(self.device) for rows in (kept, ~kept))
        self._standardise(given[train], change[train], reward[train])
        self.ends = bool(ended.any())
        made, scheduler = (optim or adam(1e-3)).create_instances(self.members)
        schedulers = [] if scheduler is None else [scheduler]
        follow(schedulers, None, type(self).__name__)
        goal = self._standardised(change, reward)
        draws = generator(stream_seed(self.seed, "world"), len(given), "world/batches")
        inputs = self._normal_input(given)
        for _ in range(updates):
            loss = given.new_zeros(())
            for member in self.members:
                drawn = torch.randint(len(train), (batch_size,), generator=draws).to(self.device)
                rows = train[drawn]
                output = member(inputs[rows])
                loss = loss + (output[:, :-1] - goal[rows]).square().mean()
                if self.ends:
                    end = F.binary_cross_entropy_with_logits(output[:, -1], ended[rows])
                    loss = loss + end
            made.zero_grad()
            loss.backward()
            made.step()
            for one in schedulers:
                one.step()
        return self._measured(given, change, reward, ended, train, test, batch)

    @torch.no_grad()
    def foretell(self, obs: Tensor, state: Tensor, act: Tensor, member: Tensor) -> Foretold:
        r"""Return what joint actions lead to, without :math:`\eta`.

        Args:
            obs: (E, N, D).
            state: (E, S').
            act: int64 (E, N) or float (E, N, A).
            member: who of the ensemble foretells it, int64 (E,).
        """
        seen = torch.cat([obs.flatten(1), state], dim=1).double()
        given = self._normal_input(torch.cat([seen, self._vectors(act)], dim=1))
        answers = torch.stack([one(given) for one in self.members], dim=1)
        return self._read(seen, answers[torch.arange(len(obs), device=obs.device), member])

    def settled(self, seen: Tensor) -> Tensor:
        """Return what is shown for foretold observations and states, (E, S'): near the recorded.

        Each number is rounded to 2^-32 of its range. Where chance undoes what was foretold nothing
        but the last bits of sums would be left, which differ with what else is played.
        """
        grain = _nonzero(self.high - self.low) * _GRAIN
        return ((seen / grain).round() * grain).clamp(self.low, self.high)

    def get_extra_state(self) -> dict[str, object]:
        """Return what it is played with beside weights, which travels with them."""
        return {"starts": self.starts, "residuals": self.residuals, "ends": self.ends}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`get_extra_state` returned."""
        self.starts = state["starts"].to(self.device)
        self.residuals = state["residuals"].to(self.device)
        self.ends = bool(state["ends"])

    def make_engine(self, num_envs: int) -> ImaginedEngine:
        """Return so many imagined environments side by side; the model has to be fitted.

        Raises:
            ValueError: for a model that was not fitted, or a bad number.
        """
        num_envs = check_int(f"{type(self).__name__}.make_engine.num_envs", num_envs, 1)
        rule, remedy = "fitted before it is played in", "Call fit(batch)."
        check(len(self.starts) > 0, f"{type(self).__name__}.make_engine", rule, "none", remedy)
        return ImaginedEngine(self, num_envs)

    def _check_modelled(self, where: str, batch: JointBatch) -> None:
        check_kind(where, batch, JointBatch, "a JointBatch")
        played = batch.valid.unsqueeze(-1)
        whole = bool((batch.obs.alive[:, :-1] | ~played).all())
        check(whole, where, "of episodes in which all agents live", "dead or late ones")
        mask, real = batch.obs.mask[:, :-1], self.spec.action_mask(batch.valid.device)
        wanted = torch.ones_like(mask) if real is None else real.expand_as(mask)
        free = bool(((mask == wanted) | ~played.unsqueeze(-1)).all())
        check(free, where, "of episodes in which every action is available", "masks")

    def _steps(self, batch: JointBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return inputs, changes, rewards and ends of all steps, (R, ...) each."""
        valid, device = batch.valid, self.device
        state = batch.obs.state.flatten(2)
        seen = torch.cat([batch.obs.obs.flatten(2), state], dim=-1).double()
        act = batch.act if batch.act_exec is None else batch.act_exec
        before, after = seen[:, :-1][valid], seen[:, 1:][valid]
        given = torch.cat([before, self._vectors(act[valid])], dim=1).to(device)
        ended = batch.terminated[valid].to(given)
        return given, (after - before).to(device), batch.rew_agents[valid].to(given), ended

    def _vectors(self, act: Tensor) -> Tensor:
        """Return joint actions (E, N) or (E, N, A) as the networks take them, (E, N A)."""
        if act.is_floating_point():
            return act.clamp(-1.0, 1.0).flatten(1).double()
        return F.one_hot(act, self.spec.num_actions).flatten(1).double()

    def _standardise(self, given: Tensor, change: Tensor, reward: Tensor) -> None:
        """Keep means, spreads and ranges of what is recorded."""
        seen = given[:, : len(self.input_mean)]
        for part, values in (("input", seen), ("change", change), ("reward", reward)):
            getattr(self, f"{part}_mean").copy_(values.mean(dim=0))
            getattr(self, f"{part}_std").copy_(values.std(dim=0, unbiased=False))
        both = torch.cat([seen, seen + change])
        low, high = both.amin(dim=0), both.amax(dim=0)
        self.low.copy_(low - _MARGIN * (high - low))
        self.high.copy_(high + _MARGIN * (high - low))

    def _normal_input(self, given: Tensor) -> Tensor:
        size = len(self.input_mean)
        seen = (given[:, :size] - self.input_mean) / _nonzero(self.input_std)
        return torch.cat([seen, given[:, size:]], dim=1)

    def _standardised(self, change: Tensor, reward: Tensor) -> Tensor:
        parts = (
            (change - self.change_mean) / _nonzero(self.change_std),
            (reward - self.reward_mean) / _nonzero(self.reward_std),
        )
        return torch.cat(parts, dim=1)

    def _read(self, seen: Tensor, answer: Tensor) -> Foretold:
        """Return what a network's answers (E, ...) say of what was seen, (E, ...)."""
        size, agents = seen.shape[1], self.spec.num_agents
        change, reward, end = answer.split((size, agents, 1), dim=1)
        after = seen + self.change_mean + self.change_std * change
        obs, state = after.split((self.obs_numbers, size - self.obs_numbers), dim=1)
        ended = end[:, 0].sigmoid() if self.ends else torch.zeros_like(end[:, 0])
        reward = self.reward_mean + self.reward_std * reward
        return Foretold(obs.view(len(obs), agents, -1), state, reward, ended)

    def _held_out(self, steps: int, share: float) -> Tensor:
        """Return which of so many steps, >= 2, are held out, bool (R,): the same of more steps."""
        keys = episode_keys(stream_seed(self.seed, "world/held"), torch.arange(steps))
        kept = Draws(keys).uniform(1)[:, 0] < share
        kept[0], kept[1] = True, False  # neither side is ever empty
        return kept

    @torch.no_grad()
    def _measured(
        self,
        given: Tensor,
        change: Tensor,
        reward: Tensor,
        ended: Tensor,
        train: Tensor,
        test: Tensor,
        batch: JointBatch,
    ) -> Fitted:
        """Keep where episodes begin and what is left unexplained, and say how much is."""
        seen = given[:, : len(self.input_mean)]
        inputs = self._normal_input(given)
        answers = torch.stack([self._read_all(seen, one(inputs)) for one in self.members])
        foretold = answers.mean(dim=0)
        size = seen.shape[1]
        left = change - (foretold[:, :size] - seen)
        # of each member its own, (M, K, S'); of the steps it was fitted to it leaves too little
        self.residuals = (change + seen - answers[..., :size])[:, test]
        begins = torch.full_like(batch.valid, self.anywhere)
        begins[:, 0] = True
        self.starts = seen[begins[batch.valid].to(self.device)]
        over = (foretold[:, -1] > 0.5) == (ended > 0.5)
        return Fitted(
            obs=_explained(left[test], change[test]),
            reward=_explained((reward - foretold[:, size:-1])[test], reward[test]),
            ended=float(over[test].float().mean()),
            steps=len(train),
            held_out=len(test),
        )

    def _read_all(self, seen: Tensor, answer: Tensor) -> Tensor:
        """Return observations, states, rewards and the end's probability as one, (R, ...)."""
        told = self._read(seen, answer)
        parts = told.obs.flatten(1), told.state, told.rew_agents, told.ended.unsqueeze(1)
        return torch.cat(parts, dim=1)


def _nonzero(spread: Tensor) -> Tensor:
    """Return ``spread``, 1 where nothing varies."""
    return torch.where(spread < _TINY, 1.0, spread)


def _explained(left: Tensor, whole: Tensor) -> float:
    """Return the share of the spread of ``whole`` (R, K) that is not ``left``; nan without any."""
    spread = (whole - whole.mean(dim=0)).square().sum()
    return math.nan if float(spread) <= _TINY else float(1.0 - left.square().sum() / spread)
