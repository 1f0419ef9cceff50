"""What kinds of units there are, as data.

Figures are StarCraft II's at the speed "faster", ``max_cooldown`` is SMAC's ``unit_max_cooldown``.
A medivac gives 9 hit points per second of speed "normal", 12.6 at "faster". Splash is simpler than
there: one radius with full damage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from robustmarl._checks import (
    check,
    check_choice,
    check_flag,
    check_int,
    check_number,
    check_text,
    keep,
)
from robustmarl.envs.skirmish.rules import (
    LARGEST_FIGURE,
    LEAST_DAMAGE,
    MOVE_AMOUNT,
    TICKS_PER_SECOND,
    TICKS_PER_STEP,
)

__all__ = ["UNITS", "UnitType"]

Attribute: TypeAlias = Literal["light", "armored"]

# a move order points MOVE_AMOUNT cells away: within a step nobody may get beyond it
_FASTEST = MOVE_AMOUNT * TICKS_PER_SECOND / TICKS_PER_STEP


@dataclass(frozen=True, kw_only=True)
class UnitType:
    """What one kind of unit can do. Distances are in cells, times in seconds; none over 1000.

    Args:
        name: how maps call it.
        health: hit points at first, > 0.
        shield: shield points at first, >= 0; they come back after a while without damage.
        armor: taken off each hit on the hit points, >= 0.
        damage: of each hit, points, >= 0.
        attacks: hits per shot, >= 1.
        bonus: damage added against targets that are ``bonus_against``; 0 without them.
        bonus_against: ``"light"`` or ``"armored"``, None without bonus.
        attribute: ``"light"``, ``"armored"`` or None.
        cooldown: between shots, > 0.
        range: from edge to edge, >= 0.
        speed: cells per second, in [0, 5.6]: no faster than a move order of two cells a step.
        radius: > 0.
        flying: passes over ground units.
        hits_air: can shoot at what flies.
        heal: hit points per second that it gives to its own side instead of shooting, >= 0.
        splash: radius around a target within which a shot hits the target's side, >= 0.
        spent: dies of its own first shot.
        max_cooldown: by which the state divides the cooldown, or a healer's energy, > 0.
        sc2_id: StarCraft II's number of the type; 0 if it has none.

    Raises:
        TypeError: for an argument of a wrong kind.
        ValueError: for a value out of range.

    Example:
        >>> from robustmarl import envs
        >>> tank = UnitType(name="tank", health=100.0, damage=5.0, range=6.0, speed=2.0)
        >>> game = envs.SkirmishMap(name="tanks", allies=[(tank, 2)], enemies=[(tank, 1)], limit=9)
        >>> envs.SkirmishEngine(game).spec.num_agents
        2
    """

    name: str
    health: float
    shield: float = 0.0
    armor: float = 0.0
    damage: float = 0.0
    attacks: int = 1
    bonus: float = 0.0
    bonus_against: Attribute | None = None
    attribute: Attribute | None = "light"
    cooldown: float = 1.0
    range: float = 0.1
    speed: float = 3.15
    radius: float = 0.375
    flying: bool = False
    hits_air: bool = True
    heal: float = 0.0
    splash: float = 0.0
    spent: bool = False
    max_cooldown: float = 15.0
    sc2_id: int = 0

    def __post_init__(self) -> None:
        positive = ("health", "cooldown", "radius", "max_cooldown")
        for name in positive:
            where = f"UnitType.{name}"
            figure = check_number(where, getattr(self, name), 0.0, LARGEST_FIGURE, open_low=True)
            keep(self, **{name: figure})
        for name in ("shield", "armor", "damage", "bonus", "range", "heal", "splash"):
            figure = check_number(f"UnitType.{name}", getattr(self, name), 0.0, LARGEST_FIGURE)
            keep(self, **{name: figure})
        unit = "cells per second"
        keep(
            self,
            name=check_text("UnitType.name", self.name),
            speed=check_number("UnitType.speed", self.speed, 0.0, _FASTEST, unit=unit),
            attacks=check_int("UnitType.attacks", self.attacks, 1),
            sc2_id=check_int("UnitType.sc2_id", self.sc2_id, 0),
        )
        for name in ("flying", "hits_air", "spent"):
            keep(self, **{name: check_flag(f"UnitType.{name}", getattr(self, name))})
        check_choice("UnitType.attribute", self.attribute, ("light", "armored", None))
        check_choice("UnitType.bonus_against", self.bonus_against, (None, "light", "armored"))
        meant = self.bonus == 0.0 or self.bonus_against is not None
        remedy = "Say whom it is against: bonus_against='light' or 'armored'."
        check(meant, "UnitType.bonus", "0 without bonus_against", self.bonus, remedy)

    def damage_to(self, other: UnitType) -> tuple[float, float]:
        """Return the damage of one shot to ``other``'s shield and to its hit points."""
        if self.heal or (other.flying and not self.hits_air):
            return 0.0, 0.0
        favoured = self.bonus_against is not None and other.attribute == self.bonus_against
        hit = self.damage + (self.bonus if favoured else 0.0)
        if not hit:  # a unit without a weapon
            return 0.0, 0.0
        return hit * self.attacks, max(hit - other.armor, LEAST_DAMAGE) * self.attacks


UNITS = {
    unit.name: unit
    for unit in (
        UnitType(name="marine", health=45.0, damage=6.0, cooldown=0.61, range=5.0, sc2_id=48),
        UnitType(
            name="marauder",
            health=125.0,
            armor=1.0,
            damage=10.0,
            bonus=10.0,
            bonus_against="armored",
            attribute="armored",
            cooldown=1.07,
            range=6.0,
            radius=0.5625,
            hits_air=False,
            max_cooldown=25.0,
            sc2_id=51,
        ),
        UnitType(
            name="medivac",
            health=150.0,
            armor=1.0,
            attribute="armored",
            range=4.0,
            speed=3.5,
            radius=0.75,
            flying=True,
            heal=12.6,
            max_cooldown=200.0,
            sc2_id=54,
        ),
        UnitType(
            name="stalker",
            health=80.0,
            shield=80.0,
            armor=1.0,
            damage=13.0,
            bonus=5.0,
            bonus_against="armored",
            attribute="armored",
            cooldown=1.34,
            range=6.0,
            speed=4.13,
            radius=0.625,
            max_cooldown=35.0,
            sc2_id=74,
        ),
        UnitType(
            name="zealot",
            health=100.0,
            shield=50.0,
            armor=1.0,
            damage=8.0,
            attacks=2,
            cooldown=0.86,
            radius=0.5,
            hits_air=False,
            max_cooldown=22.0,
            sc2_id=73,
        ),
        UnitType(
            name="colossus",
            health=200.0,
            shield=150.0,
            armor=1.0,
            damage=10.0,
            attacks=2,
            bonus=5.0,
            bonus_against="light",
            attribute="armored",
            cooldown=1.07,
            range=7.0,
            radius=1.0,
            hits_air=False,
            splash=0.9,
            max_cooldown=24.0,
            sc2_id=4,
        ),
        UnitType(
            name="spine_crawler",
            health=300.0,
            armor=2.0,
            damage=25.0,
            bonus=5.0,
            bonus_against="armored",
            attribute="armored",
            cooldown=1.32,
            range=7.0,
            speed=0.0,
            radius=1.125,
            hits_air=False,
            sc2_id=98,
        ),
        UnitType(
            name="zergling",
            health=35.0,
            damage=5.0,
            cooldown=0.497,
            speed=4.13,
            hits_air=False,
            max_cooldown=11.0,
            sc2_id=105,
        ),
        UnitType(
            name="baneling",
            health=30.0,
            damage=16.0,
            bonus=19.0,
            bonus_against="light",
            attribute=None,
            cooldown=0.59,
            range=0.25,
            speed=3.5,
            hits_air=False,
            splash=2.2,
            spent=True,
            max_cooldown=1.0,
            sc2_id=9,
        ),
        UnitType(
            name="hydralisk",
            health=90.0,
            damage=12.0,
            cooldown=0.59,
            range=5.0,
            radius=0.625,
            max_cooldown=10.0,
            sc2_id=107,
        ),
    )
}
"""The unit types that maps may name."""
