"""How hard the skirmish maps are for scripts: random, blind, focused fire, retreat, taking turns.

    python benchmarks/skirmish_balance.py [--json runs/bench/balance.json] [--maps 3m 8m]

Win rates of five teams that do not learn, per map:

* random legal actions;
* blind: it sees its action mask alone, shoots at (or heals) the first it may, else walks east;
* focused fire: everybody shoots at the weakest within range, and walks to the nearest if
  nobody is;
* retreat: the same, but a unit with the longer weapon that an enemy runs after walks away from
  it while the others shoot;
* turns: focused fire, and who is shot at and nearly dead walks out of reach if another one is
  stronger, so that the enemy has to turn to that one.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from _timing import report

from robustmarl.envs.skirmish import MAPS, SkirmishEngine
from robustmarl.envs.skirmish.layout import ATTACK, EAST, NO_OP, NORTH, SOUTH, STOP, WEST

SAFE, DANGER, ROOM = 2.5, 4.0, 4.0  # cells
WEAK, STRONGER = 0.3, 0.2  # of the health and shield that a unit has at first
WAYS = {NORTH: (0, 1), SOUTH: (0, -1), EAST: (1, 0), WEST: (-1, 0)}


def random_team(engine, rng):
    """Return legal actions (E, N)."""
    mask = engine.tensors["mask"].numpy()
    return (rng.random(mask.shape) * mask).argmax(-1)


def blind(engine, rng):
    """Return actions (E, N) of a team that sees nothing but what it may do."""
    mask = engine.tensors["mask"].numpy()
    can = mask[:, :, ATTACK:]
    return legal(np.where(can.any(-1), ATTACK + can.argmax(-1), EAST), mask)


def focused(engine, rng):
    """Return actions (E, N) of focused fire."""
    lay, battles = engine.layout, engine.battles
    n, m = lay.n, lay.m
    mask = engine.tensors["mask"].numpy()
    gap = battles.pos[:, None, n:] - battles.pos[:, :n, None]  # (2, N, M, E)
    far = np.sqrt((gap**2).sum(0)) + 1e6 * (battles.health[n:] <= 0)
    weak = battles.pools[:, n:].sum(0)[None] + 1e-3 * far
    can = mask[:, :, ATTACK : ATTACK + m].transpose(1, 2, 0)
    shoot = ATTACK + np.where(can, weak, np.inf).argmin(1)
    to = np.take_along_axis(gap, far.argmin(1)[None, :, None], 2)[:, :, 0]  # (2, N, E)
    across = np.where(to[0] > 0, EAST, WEST)
    along = np.where(to[1] > 0, NORTH, SOUTH)
    walk = np.where(abs(to[0]) > abs(to[1]), across, along)
    act = np.where(can.any(1), shoot, walk).T
    for i in lay.healers:
        heal = mask[:, i, ATTACK:]
        act[:, i] = np.where(heal.any(-1), ATTACK + heal.argmax(-1), walk[i])
    return legal(act, mask)


def retreating(engine, rng):
    """Return actions (E, N): focused fire, and retreat of those who are run after."""
    lay, battles = engine.layout, engine.battles
    n = lay.n
    longer = np.array([[a.range > b.range for b in lay.enemies] for a in lay.allies])
    hunted = battles.target[None, n:] == np.arange(n)[:, None, None]
    hunted &= (battles.health[n:] > 0) & longer[:, :, None]
    here = battles.pos[:, :n]
    hunters = battles.pos[:, None, n:]
    left, bottom, right, top = engine.game.playable

    def nearest(place):
        far = np.sqrt(((hunters - place[:, :, None]) ** 2).sum(0))
        return np.where(hunted, far, np.inf).min(1)

    def value(way):
        step = np.array([unit.speed for unit in lay.allies])[:, None] * 8 / 22.4
        place = here + np.array(way)[:, None, None] * step
        x, y = np.clip(place[0], left, right), np.clip(place[1], bottom, top)
        room = np.minimum(np.minimum(x - left, right - x), ROOM)
        room += np.minimum(np.minimum(y - bottom, top - y), ROOM)
        return np.minimum(nearest(np.stack([x, y])), DANGER) + 0.25 * room

    best = np.array(list(WAYS))[np.stack([value(way) for way in WAYS.values()]).argmax(0)]
    act = np.where(nearest(here) < SAFE, best, focused(engine, rng).T).T
    return legal(act, engine.tensors["mask"].numpy())


def turns(engine, rng):
    """Return actions (E, N): focused fire, and retreat of the weak whom enemies shoot at."""
    lay, battles = engine.layout, engine.battles
    n = lay.n
    most = np.array([[unit.health + unit.shield] for unit in lay.allies])
    left = battles.pools[:, :n].sum(0) / most
    gap = battles.pos[:, n:, None] - battles.pos[:, None, :n]  # (2, M, N, E)
    reach = np.array([[b.range + b.radius + a.radius for a in lay.allies] for b in lay.enemies])
    shot_at = battles.target[n:, None] == np.arange(n)[:, None]
    shot_at &= (gap**2).sum(0) <= reach[:, :, None] ** 2
    shot_at &= (battles.health[n:] > 0)[:, None]
    go = shot_at.any(0) & (left < WEAK) & (left.max(0) > left + STRONGER)
    across = (gap[0] * shot_at).sum(0)
    act = np.where(go, np.where(across > 0, WEST, EAST), focused(engine, rng).T).T
    return legal(act, engine.tensors["mask"].numpy())


def legal(act, mask):
    """Return ``act`` with stop, or the no-op, where it is masked."""
    allowed = np.take_along_axis(mask, act[:, :, None], 2)[:, :, 0]
    return np.where(allowed, act, np.where(mask[:, :, STOP], STOP, NO_OP))


def win_rate(name, team, episodes):
    """Return the share of battles won."""
    engine, rng = SkirmishEngine(name, episodes), np.random.default_rng(0)
    active = torch.ones(episodes, dtype=torch.bool)
    engine.begin(active, torch.arange(episodes))
    while active.any():
        engine.advance(torch.from_numpy(team(engine, rng)), active)
        active &= ~(engine.tensors["terminated"] | engine.tensors["truncated"])
    return float(engine.tensors["metrics"].mean())


def main():
    """Play, and print a line per map and script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--maps", nargs="+", choices=MAPS, default=list(MAPS))
    parser.add_argument("--episodes", type=int, default=100)
    args = parser.parse_args()
    teams = {
        "random": random_team,
        "blind": blind,
        "focused fire": focused,
        "retreat": retreating,
        "turns": turns,
    }
    rows = [
        (f"{name}, {script}: battles won", win_rate(name, team, args.episodes), "")
        for name in args.maps
        for script, team in teams.items()
    ]
    report(f"skirmish maps, {args.episodes} battles each", rows, args.json)


if __name__ == "__main__":
    main()
