"""A double of ``smac.env.StarCraft2Env``'s public interface: a tiny battle, and its habits."""

from types import SimpleNamespace

import numpy as np


def _unit(x, health, shield_max):
    return SimpleNamespace(
        pos=SimpleNamespace(x=x, y=4.0),
        radius=0.5,
        health=45.0 * health,
        health_max=45.0,
        shield=shield_max / 2,
        shield_max=shield_max,
    )


class Game:
    """Two units on a line against one enemy; a unit in front of it gets hurt.

    Like StarCraft2Env it launches at the first reset, takes a seed only when built, ends at the
    time limit as at a victory, refuses actions that are not available, and shows what it did to
    its process in ``log``.

    Args:
        log: gets ``(event, seed)`` for every launch and every process closed.
        seed: of everything random.
        limit: steps.
        crash_in: steps, counted over the game, after which StarCraft II crashes.
        lazy: whether the first reset crashes.
    """

    map_name = "duel"
    n_agents, n_enemies = 2, 1

    def __init__(self, log, seed, *, limit=12, crash_in=None, lazy=False):
        self._log, self._seed, self._crash_in, self._lazy = log, seed, crash_in, lazy
        self.episode_limit = limit
        self.force_restarts = 0
        self._episodes = 0
        self._launched = self._closed = False
        self.joint = []

    def get_env_info(self):
        return {
            "n_agents": 2,
            "n_actions": 7,
            "obs_shape": 3,
            "state_shape": 4,
            "episode_limit": self.episode_limit,
        }

    def reset(self):
        assert not self._closed, "a closed game is reset"
        if self._episodes == 0:
            assert not self._launched, "a game that is not over is launched twice"
            self._launched = True
            self._log.append(("launch", self._seed))
            self._rng = np.random.default_rng(self._seed)
        if self._lazy:
            self.force_restarts += 1
        self._health = np.ones(2)
        self._enemy = 1.0
        self._place = self._rng.random(2)
        self._steps = 0
        return self.get_obs(), self.get_state()

    def step(self, actions):
        self.joint.append(list(actions))
        for row, action in zip(self.get_avail_actions(), actions, strict=True):
            assert row[action] == 1, f"cannot perform action {action}"
        self._steps += 1
        if self._crash_in == self._steps:
            self.force_restarts += 1
            return 0, True, {}
        hits = 0.25 * sum(action == 6 for action in actions)
        self._enemy = max(0.0, self._enemy - hits)
        self._health -= [0.5 * (action == 4) for action in actions]
        self._place = np.clip(self._place + self._rng.normal(0, 0.05, 2), 0, 1)
        info = {"battle_won": self._enemy == 0, "dead_allies": int((self._health <= 0).sum())}
        over = self._enemy == 0 or (self._health <= 0).all()
        if not over and self._steps >= self.episode_limit:
            over, info["episode_limit"] = True, True
        self._episodes += over
        return 4.0 * hits, bool(over), info

    def get_avail_actions(self):
        return [[0, 1, 1, 1, 1, 1, 1] if h > 0 else [1] + [0] * 6 for h in self._health]

    def get_obs(self):
        rows = zip(self._health, self._place, strict=True)
        return [np.array([h, x, self._enemy]) * (h > 0) for h, x in rows]

    def get_state(self):
        return np.concatenate([self._health, self._place])

    map_x, map_y = 8, 6

    @property
    def agents(self):
        return {i: _unit(2.0 + 3.0 * i, h, shield_max=0.0) for i, h in enumerate(self._health)}

    @property
    def enemies(self):
        return {0: _unit(6.5, self._enemy, shield_max=50.0)}

    def save_replay(self):
        self._log.append(("replay", self._seed))

    def close(self):
        if self._launched and not self._closed:
            self._log.append(("close", self._seed))
        self._closed = True


class Registered(Game):
    """The double under StarCraft2Env's constructor, as far as the tests use it."""

    def __init__(
        self,
        map_name="8m",
        difficulty="7",
        game_version=None,
        seed=None,
        continuing_episode=False,
        reward_sparse=False,
    ):
        super().__init__([], seed)
        self.settings = {
            "map_name": map_name,
            "difficulty": difficulty,
            "seed": seed,
            "continuing_episode": continuing_episode,
            "reward_sparse": reward_sparse,
        }
