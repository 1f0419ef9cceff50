"""The rules: every number that belongs to no unit and no map, and where it is from.

"SMAC" is ``StarCraft2Env`` of oxwhirl/smac with its default arguments, "StarCraft II" the game at
the speed "faster", at which 22.4 of its loops take a second (at the speed "normal", in which
some of its figures are told: 16). Distances are in cells, times in ticks unless a name says
otherwise. Numbers marked "ours" have no source: they were chosen here.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DIFFICULTIES", "Tactics"]

# Time. A tick is one loop of StarCraft II.
TICKS_PER_SECOND = 22.4
TICKS_PER_STEP = 8  # SMAC's step_mul
TICKS_PER_DECISION = 2  # ours: bodies collide and targets are chosen this often, to halve the cost

# How far away a move order points (SMAC's move_amount), and how far an agent sees and may order
# targets whatever its unit's weapon, from centre to centre (unit_sight_range, unit_shoot_range).
MOVE_AMOUNT = 2.0
SIGHT = 9.0
SHOOT = 6.0

# Damage. StarCraft II: armour leaves at least half a point of every hit.
LEAST_DAMAGE = 0.5

# Shields return at 2 points per second, 10 seconds after the last hit, both at speed "normal".
SHIELD_PER_TICK = 2.0 / 16.0
TICKS_TO_CALM = 160.0

# A medivac's energy returns at 0.5625 per second of speed "normal" (over 16, rounded); it starts
# with 50 of 200, and each unit of it restores 3 hit points.
ENERGY_PER_TICK = 0.03516
FIRST_ENERGY = 50.0
FULL_ENERGY = 200.0
HEALTH_PER_ENERGY = 3.0

# Reward: SMAC's reward_win, reward_death_value and reward_scale_rate.
WIN = 200.0
KILL = 10.0
REWARD_SCALE = 20.0

# Whom to aim at: the nearest, where this many cells count on top for some. Ours, so that they
# order targets: healers are left for last among those in view, and what a weapon cannot hurt
# comes after everything that it can, but before the dead.
HEALER_HANDICAP = 20.0
UNHURT_HANDICAP = 500.0

# The dead are kept far from everybody and from one another, so that nothing that goes by distance
# needs a mask: unit i waits at FAR + i * FAR_APART in both coordinates. OUT_OF_PLAY is more than
# any distance between the living, and no figure of a unit is larger than LARGEST_FIGURE, so that
# nobody reaches that far. Ours.
LARGEST_FIGURE = 1_000.0
OUT_OF_PLAY = 1_000.0
FAR = 10_000.0
FAR_APART = 100.0

# Keeps divisions by distances and by damage finite without changing any that counts in float32.
TINY = 1e-12


@dataclass(frozen=True)
class Tactics:
    """How the enemy plays.

    Attributes:
        slowness: a factor on the time between its shots.
        ticks_per_choice: ticks between its choices of targets.
        stands: whether its units stay where they are while their weapon cools down.
        focus: whether it shoots at the weakest in range instead of the nearest.
    """

    slowness: float
    ticks_per_choice: int
    stands: bool
    focus: bool


# Ours. With 1.1 the maps come about in SMAC's order of difficulty, which
# benchmarks/skirmish_balance.py measures; 1.5 makes a lenient enemy.
DIFFICULTIES = {
    "easy": Tactics(1.5, TICKS_PER_STEP, stands=True, focus=False),
    "normal": Tactics(1.1, TICKS_PER_STEP, stands=True, focus=False),
    "hard": Tactics(1.0, TICKS_PER_DECISION, stands=False, focus=True),
}
"""How strong the enemy is: slower shots, the built-in AI's habits, or focused fire."""
