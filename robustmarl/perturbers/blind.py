"""Teams that see nothing of the episode they play: what is left is what needs no eyes."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmarl._checks import check, check_tensor
from robustmarl._seeding import Draws, stream_id
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.perturbers.base import Perturber, Place
from robustmarl.victims import Victim

__all__ = ["OtherEpisodeObs", "ZeroedObs"]


class ZeroedObs(Perturber):
    """Show every agent zeros. Action masks, memory, and what else it acts on stay as they are.

    Example:
        >>> from robustmarl import envs, evaluation
        >>> def play(context):  # what is best in this game: the first agent plays the state
        ...     return context.seen[..., 0].long() * torch.tensor([1, 0])
        >>> evaluation.rollout(play, envs.ToyGame, episodes=1).returns
        array([100.])
        >>> evaluation.rollout(play, envs.ToyGame, episodes=1, perturb=ZeroedObs()).returns
        array([50.])
    """

    kind = "zeroed"

    def on_obs(self, context: StepContext) -> Tensor:
        """Return zeros, (E, N, D)."""
        return torch.zeros_like(context.seen)


class OtherEpisodeObs(Perturber):
    """Show every agent what it saw, at the same step, in an episode that is not this one.

    Which one is drawn per episode; when it is over its last observation stays. Unlike zeros, they
    are observations as the team knows them, about something else.

    Args:
        obs: observations of recorded episodes, (B, T, N, D).
        lengths: how many of each are there, int64 (B,), >= 1.

    Raises:
        ValueError: for shapes that do not fit each other or, at ``bind``, the team.
        TypeError: for what are no tensors.

    Example:
        >>> from robustmarl import envs, evaluation
        >>> def play(context):  # what is best in this game: the first agent plays the state
        ...     return context.seen[..., 0].long() * torch.tensor([1, 0])
        >>> always_one = OtherEpisodeObs(torch.ones(1, 101, 2, 5), torch.tensor([101]))
        >>> evaluation.rollout(play, envs.ToyGame, episodes=1).returns
        array([100.])
        >>> evaluation.rollout(play, envs.ToyGame, episodes=1, perturb=always_one).returns
        array([0.])
    """

    kind = "other_episode"

    def __init__(self, obs: Tensor, lengths: Tensor) -> None:
        name = type(self).__name__
        check_tensor(f"{name}.obs", obs)
        check_tensor(f"{name}.lengths", lengths)
        check(obs.dim() == 4 and len(obs) > 0, f"{name}.obs", "(B, T, N, D)", tuple(obs.shape))
        fits = lengths.shape == obs.shape[:1] and bool(
            ((lengths >= 1) & (lengths <= obs.shape[1])).all()
        )
        check(fits, f"{name}.lengths", f"({len(obs)},), each in [1, {obs.shape[1]}]", lengths)
        self.obs, self.lengths = obs, lengths

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Check that the episodes were this team's."""
        super().bind(spec, policy, place)
        wanted, given = (spec.num_agents, spec.obs_size), tuple(self.obs.shape[2:])
        check(given == wanted, f"{type(self).__name__}.obs", f"(B, T, *{wanted})", given)
        self._stream = stream_id(f"{self.kind}/{place.depth}")

    def on_obs(self, context: StepContext) -> Tensor:
        """Return what was seen then, (E, N, D)."""
        self.obs, self.lengths = (
            values.to(context.seen.device) for values in (self.obs, self.lengths)
        )
        once = Draws(context.keys).at(torch.zeros_like(context.step), self._stream)
        episode = (once.uniform(1)[:, 0] * len(self.obs)).long()
        step = torch.minimum(context.step, self.lengths[episode] - 1)
        return self.obs[episode, step].to(context.seen.dtype)
