"""Training beside hand-written loops without abstractions, and updates beside bare ones.

    python benchmarks/lean.py [--json runs/bench/lean.json]

One thread, process CPU time, both in turn in one process, the median ratio. The loops are what one
would write for one algorithm in plain torch and numpy: ten parallel environments stepped one by
one, a batched forward pass, episodes in arrays, and the same networks, losses and numbers of
updates as ours: QMIX takes one update on 32 whole episodes per episode played (MLP 64-64), MAPPO
four full-batch epochs per ten episodes (GRU 128). A bare update is the same on episodes that lie
ready.
"""

import argparse
import copy
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _timing import times_longer
from tianshou.utils.torch_utils import policy_within_training_step
from torch.nn import functional as F

from robustmarl import algorithms, data, envs
from robustmarl.envs.vector import vector_env

ENVS, BATCH, KEPT = 10, 32, 500
GAMMA, LAMBDA, CLIP = 0.99, 0.95, 0.2


class Loop:
    """Ten environments, and their episodes in arrays."""

    def __init__(self, make_env, team):
        self.games, self.spec = [make_env() for _ in range(ENVS)], team.spec
        self.rng, self.count = np.random.default_rng(0), 0
        spec, time = self.spec, self.spec.horizon
        shape = (KEPT, time + 1, spec.num_agents)
        self.obs = torch.zeros(*shape, spec.obs_size)
        self.mask = torch.ones(*shape, spec.num_actions, dtype=torch.bool)
        self.state = torch.zeros(KEPT, time + 1, *spec.state_shape)
        self.act = torch.zeros(KEPT, time, spec.num_agents, dtype=torch.int64)
        self.logp = torch.zeros(KEPT, time, spec.num_agents)
        self.rew, self.last = torch.zeros(KEPT, time), torch.zeros(KEPT, time)
        self.length = torch.zeros(KEPT, dtype=torch.int64)

    def collect(self, act):
        """Play an episode in each environment; ``act`` is a function of what they show."""
        slots = [(self.count + e) % KEPT for e in range(ENVS)]
        self.count += ENVS
        live = list(range(ENVS))
        for e in live:
            self._keep(slots[e], 0, self.games[e].reset(seed=self.count + e)[0], e)
        memory, steps, time = None, 0, 0
        while live:
            rows = torch.tensor(slots)
            chosen, logp, memory = act(self.obs[rows, time], self.mask[rows, time], memory)
            self.act[rows, time], self.logp[rows, time] = chosen, logp
            for e in list(live):
                game, slot = self.games[e], slots[e]
                joint = dict(zip(game.agents, chosen[e].tolist(), strict=True))
                seen, rewards, _, _, _ = game.step(joint)
                self.rew[slot, time] = sum(rewards.values())
                self._keep(slot, time + 1, seen, e)
                steps += 1
                if not game.agents:
                    self.length[slot] = time + 1
                    live.remove(e)
            time += 1
        return steps, slots

    def _keep(self, slot, time, seen, e):
        for i, one in enumerate(seen.values()):
            if isinstance(one, dict):
                self.obs.numpy()[slot, time, i] = one["observation"]
                self.mask.numpy()[slot, time, i] = one["action_mask"]
            else:
                self.obs.numpy()[slot, time, i] = one
        self.state.numpy()[slot, time] = self.games[e].state()


class LeanQMIX(Loop):
    """QMIX in a loop of its own, with our networks."""

    def __init__(self, make_env, team):
        super().__init__(make_env, team)
        self.agents, self.mixer = copy.deepcopy(team.policy.network), copy.deepcopy(team.mixer)
        self.old_agents, self.old_mixer = copy.deepcopy(self.agents), copy.deepcopy(self.mixer)
        self.weights = [*self.agents.parameters(), *self.mixer.parameters()]
        self.optim = torch.optim.Adam(self.weights, lr=5e-4, fused=True)

    @torch.no_grad()
    def explore(self, obs, mask, memory):
        """Return random actions for some, else the best."""
        q = self.agents.unroll(obs[:, None], None)[0][:, 0]
        best = q.masked_fill(~mask, -1e9).argmax(-1)
        drawn = torch.rand(mask.shape).masked_fill(~mask, -1.0).argmax(-1)
        return torch.where(torch.rand(best.shape) < 0.5, drawn, best), 0.0, None

    def mix(self, mixer, q, state):
        """Return Q_tot."""
        of_w1, of_w2, of_v, b1 = mixer.first(mixer.normalize(state)).split((64, 64, 32, 32), -1)
        w1 = mixer.w1(of_w1.relu()).abs().unflatten(-1, (mixer.num_agents, 32))
        hidden = F.elu((q.unsqueeze(-1) * w1).sum(-2) + b1)
        v = mixer.v(of_v.relu()).squeeze(-1)
        return (hidden * mixer.w2(of_w2.relu()).abs()).sum(-1) + v

    def update(self):
        """Take one step on 32 whole episodes."""
        held = min(self.count, KEPT)
        rows = torch.from_numpy(self.rng.choice(held, min(held, BATCH), replace=False))
        time = int(self.length[rows].max())
        obs, mask = self.obs[rows, : time + 1], self.mask[rows, : time + 1]
        state = self.state[rows, : time + 1].flatten(2)
        q = self.agents.unroll(obs, None)[0]
        taken = q[:, :-1].gather(-1, self.act[rows, :time].unsqueeze(-1)).squeeze(-1)
        with torch.no_grad():
            best = q[:, 1:].masked_fill(~mask[:, 1:], -1e9).argmax(-1, keepdim=True)
            later = self.old_agents.unroll(obs, None)[0][:, 1:].gather(-1, best).squeeze(-1)
            going = (torch.arange(1, time + 1) < self.length[rows, None]).float()
            value = self.mix(self.old_mixer, later, state[:, 1:])
            target = self.rew[rows, :time] + GAMMA * going * value
        valid = torch.arange(time) < self.length[rows, None]
        error = self.mix(self.mixer, taken, state[:, :-1]) - target
        loss = (error.square() * valid).sum() / valid.sum()
        self.optim.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 10.0)
        self.optim.step()
        return loss.item()

    def train(self):
        """Play and learn from twenty episodes; return steps."""
        steps = 0
        for _ in range(2):
            steps += self.collect(self.explore)[0]
            for _ in range(ENVS):
                self.update()
        return steps


class LeanMAPPO(Loop):
    """MAPPO in a loop of its own, with our networks."""

    def __init__(self, make_env, team):
        super().__init__(make_env, team)
        self.actor, self.critic = copy.deepcopy(team.policy.network), copy.deepcopy(team.critic)
        self.weights = [*self.actor.parameters(), *self.critic.parameters()]
        self.optim = torch.optim.Adam(self.weights, lr=5e-4, eps=1e-5, fused=True)
        self.slots = []

    @torch.no_grad()
    def draw(self, obs, mask, memory):
        """Return drawn actions, their log-probabilities, and the memory."""
        agents = torch.arange(self.spec.num_agents)
        extra = self.actor.extra(agents, None)
        logits, memory = self.actor.step(obs, extra, memory)
        logp = logits.masked_fill(~mask, -1e9).log_softmax(-1)
        act = torch.multinomial(logp.exp().flatten(0, 1), 1).view(mask.shape[:2])
        return act, logp.gather(-1, act.unsqueeze(-1)).squeeze(-1), memory

    def update(self):
        """Take four steps on the newest ten episodes."""
        rows = torch.tensor(self.slots)
        time = int(self.length[rows].max())
        obs, mask, act = self.obs[rows, :time], self.mask[rows, :time], self.act[rows, :time]
        valid = torch.arange(time) < self.length[rows, None]
        state, old = self.state[rows, : time + 1].flatten(2), self.logp[rows, :time]
        with torch.no_grad():
            value = self.critic(state)
            going = (torch.arange(1, time + 1) < self.length[rows, None]).float()
            delta = self.rew[rows, :time] + GAMMA * going * value[:, 1:] - value[:, :-1]
            advantage, following = torch.zeros_like(delta), torch.zeros(len(rows))
            for t in range(time - 1, -1, -1):
                following = delta[:, t] + GAMMA * LAMBDA * going[:, t] * following
                advantage[:, t] = following
            returns = advantage + value[:, :-1]
            played = advantage[valid]
            advantage = ((advantage - played.mean()) / (played.std() + 1e-8)).unsqueeze(-1)
        weight = valid.float() / valid.sum()
        for _ in range(4):
            logits = self.actor.unroll(obs, None)[0].masked_fill(~mask, -1e9)
            logp_all = logits.log_softmax(-1)
            logp = logp_all.gather(-1, act.unsqueeze(-1)).squeeze(-1)
            ratio = (logp - old).exp()
            clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
            gain = torch.min(ratio * advantage, clipped * advantage).mean(-1)
            entropy = -(logp_all.exp() * logp_all).sum(-1).mean(-1)
            error = (self.critic(state[:, :-1]) - returns).square()
            loss = ((-gain + 0.5 * error - 0.01 * entropy) * weight).sum()
            self.optim.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.weights, 10.0)
            self.optim.step()
        return loss.item()

    def train(self):
        """Play and learn from twenty episodes; return steps."""
        total = 0
        for _ in range(2):
            steps, self.slots = self.collect(self.draw)
            total += steps
            self.update()
        return total


class Ours:
    """The same with this package."""

    def __init__(self, make_env, kind):
        self.off_policy = kind == "QMIX"
        if self.off_policy:
            self.team = algorithms.QMIX.for_env(make_env(), hidden=(64, 64), embed=32)
        else:
            self.team = algorithms.MAPPO.for_env(
                make_env(), recurrent=True, hidden=(128,), normalize_value=False
            )
        self.buffer = data.EpisodeBuffer(self.team.spec, KEPT if self.off_policy else ENVS)
        self.collector = data.JointCollector(self.team, vector_env(make_env, ENVS), self.buffer)
        self.collect()

    def collect(self):
        """Play an episode in each environment."""
        with policy_within_training_step(self.team.policy):
            return self.collector.collect(n_episode=ENVS).n_collected_steps

    def update(self):
        """Take one step on 32 episodes, or four on the newest."""
        with policy_within_training_step(self.team.policy):
            if self.off_policy:
                self.team.update(buffer=self.buffer, sample_size=BATCH)
            else:
                self.team.update(buffer=self.buffer, batch_size=None, repeat=4)

    def train(self):
        """Play and learn from twenty episodes; return steps."""
        steps = 0
        for _ in range(2):
            if not self.off_policy:
                self.buffer.reset()
            steps += self.collect()
            for _ in range(ENVS if self.off_policy else 1):
                self.update()
        return steps


TASKS = {
    "spread": (envs.spread, {"QMIX": 1.6, "MAPPO": 2.2}),
    "foraging 8x8-2p-3f": (envs.foraging, {"QMIX": 1.5, "MAPPO": 2.2}),
    "3m": (partial(envs.skirmish, "3m"), {}),
}
MOST = 1.15  # how much longer than a bare update ours may take


def repeated(update, times):
    """Return a function that updates so many times."""

    def play():
        for _ in range(times):
            update()
        return times

    return play


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name, (make_env, goals) in TASKS.items():
        for kind, lean in (("QMIX", LeanQMIX), ("MAPPO", LeanMAPPO)):
            ours = Ours(make_env, kind)
            loop = lean(make_env, ours.team)
            for _ in range(4):  # as many episodes as a batch needs, in both
                loop.train()
                ours.train()
            times, mine, theirs = times_longer(ours.train, loop.train, args.repeats)
            updating, one, bare = times_longer(
                repeated(ours.update, 10), repeated(loop.update, 10), args.repeats
            )
            found[f"{name}, {kind}"] = {
                "steps_per_second": mine,
                "lean_steps_per_second": theirs,
                "times_lean": 1 / times,
                "update_over_bare": updating,
                "update_ms": 1e3 / one,
                "bare_ms": 1e3 / bare,
            }
            goal = f" (goal {goals[kind]})" if kind in goals else ""
            print(
                f"{name}, {kind}: {mine:,.0f} steps/s, {1 / times:.2f} times the lean loop's"
                f"{goal}; update {updating:.2f} of a bare one (goal at most {MOST})",
                flush=True,
            )
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
