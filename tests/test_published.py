"""What README and documentation print is what the raw scores in docs/data come to.

A table is found by words that stand before it, a sentence by its words. A function looks up in the
raw scores what they stand for, and every number printed must be theirs, to the digits printed.
"""

import json
import re
from functools import cache, partial
from itertools import takewhile
from math import inf
from pathlib import Path
from statistics import fmean

import pytest

from robustmarl.evaluation import Cell, CrossTable, interval

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs" / "data"
FROM_A_PAPER = "printed by others, who published no raw scores"


@cache
def raw(name):
    return json.loads((DATA / f"{name}.json").read_text("utf-8"))


@cache
def crosstable(name, part=""):
    content = raw(name)
    return CrossTable.from_json(json.dumps(content[part]["table"] if part else content))


# Each of these returns what an entry of a table stands for: a cell, numbers or a word.


def quickstart(row, column):
    if column.startswith("worst of "):
        return crosstable("quickstart_worst").cell(row, "worst")
    return crosstable("quickstart").cell(row, column.removesuffix("-10"))


def quickstart_suite(attack, team):
    return crosstable("quickstart_worst").cell(team, attack)


def robust_qmix(place, team, column):
    size = {"2m_vs_1z": "0.1", "2s3z": "0.1", "3m": "0.25", "3s_vs_3z": "0.25"}[place]
    if column in ("none", "noise", "FGSM", "PGD"):
        attack = column if column == "none" else f"{column} {size}"
        return crosstable(f"robust_qmix/{place}").cell(team, attack)
    column = column.removesuffix(" of `quick`")
    worst = {seed: raw("robust_qmix_worst")[f"{place}/{team}/{seed}"] for seed in range(3)}
    return Cell({seed: scores["worst"][column] for seed, scores in worst.items()})


def defences(row, column):
    table = crosstable("defences")
    kind, several, _ = row.partition(", the most of ")
    if several:
        blind = [v for v in table.baselines if v.endswith(f", {kind}")]
        row = max(blind, key=lambda victim: table.mean(victim, "none"))
    if column == "worst of `quick`":
        return crosstable("defences_worst", row).cell(row, "worst")
    return table.cell(row, column.replace("PGD-10", "PGD"))


def certified(row, column):
    place, team = row.split(": ")
    size, other = {"3m": ("0.1", "0.25"), "3s_vs_3z": ("0.05", "0.1")}[place]
    key = {
        "worst of `quick`": "worst",
        "PGD-10": f"PGD-10 {size}",
        "PGD-10 at .25, .1": f"PGD-10 {other}",
        "decisions proven": f"proven {size}",
        "certified wins": f"certified win {size}",
    }.get(column, column)
    scores = {seed: raw("certified")[f"{place}/{team}/{seed}"][key] for seed in range(3)}
    return Cell(scores, limits=(0.0, 1.0))


def directors(row, column):
    teams = {
        "untrained, clean": "untrained",
        "random, clean": "random",
        "script that sees its mask alone": "blind script",
    }
    team, attack = (teams[row], "clean") if row in teams else ("QMIX under FGSM", row)
    cell = Cell({one["seed"]: one["won"][team][attack] for one in raw("directors")})
    return cell if column == "share won" else [v.mean() for _, v in sorted(cell.scores.items())]


def continuous(row, column):
    name = {
        "none": "clean",
        "random team": "random",
        "untrained team": "untrained",
        "PA-AD, generator of ten steps": "PA-AD, 10 steps",
        "8,000 real steps": "PA-AD",
        "1,600 real steps": "PA-AD, a fifth",
        "1,600 real steps, and a model": "PA-AD, a fifth and a model",
        "what the team earned in the model": "(in the model)",
    }.get(row, row)
    size = column.strip("$").removeprefix(r"\epsilon = ")
    baselines = ("clean", "random", "untrained", "trained blind", "zeroed", "another's")
    key = name if name in baselines else f"{name} @ 0{size}"
    return [fmean(one["scores"][key]) for one in raw("continuous")["seeds"].values()]


def byzantine(task, team, column):
    found = [one for one in raw("byzantine") if (one["task"], one["method"]) == (task, team)]
    names = set(found[0]["scores"])
    if column.startswith("transferred"):
        names = {name for name in names if name.startswith("from ")}
    elif column.startswith("mean of"):
        names = names - {"none"}
    else:
        called = {"no attack": "none", "fresh adversary": "non-oblivious"}
        observed = column.replace(r"observation, $\epsilon$ = ", "observation ")
        names &= {called.get(column, observed)}
    scores = {
        one["seed"]: [v for name in names for each in one["scores"][name].values() for v in each]
        for one in found
    }
    most = {"4m_vs_3m": 20.0, "foraging 12x12-4p-3f-c": 1.0}.get(task, 100.0)
    return Cell(scores, limits=(0.0, most))


SHORT = {"SA-MFAC, three loops": "SA-MFAC3", "RoMFAC, one loop": "RoMFAC1"}


def romfac(stem, figure, row, column):
    if row.endswith(" at .12"):
        stem, row = stem.replace("early", "dose"), row.removesuffix(" at .12")
    row = SHORT.get(row, row)
    if column == "worst of the suite":
        return crosstable(f"romfac/{stem}-suite").cell(row, "worst")
    number = column.removeprefix("M = ")
    return crosstable(f"romfac/{stem}-{figure}").cell(row, f"M={number}")


def pursuit(row, column):
    """Look up a team of Pursuit trained anew, or in another way, which its name says."""
    method, _, way = row.rpartition(", ")
    stems = {"early loops": "early", "early loops at .12": "dose"}
    method, stem = (method, f"pursuit_{stems[way]}") if way in stems else (row, "pursuit_anew")
    if column == "director":
        return crosstable(f"romfac/{stem}-A2C-director").cell(SHORT.get(row, row), column)
    return romfac(f"{stem}-A2C", "return", method, column)


def in_battle(row, column):
    return crosstable("romfac/battle_anew-script-director").cell(row, column)


def weighing(row, column):
    stem = {"Battle": "battle_anew-script", "Pursuit": "pursuit_anew-A2C"}[row.split(": ")[0]]
    method = row.split(": ")[1]
    if method.endswith(", early loops"):
        stem, method = stem.replace("anew", "early"), method.removesuffix(", early loops")
    names = {"the weightiest": "most", "weigh": "weighing", "occupied": "occupied"}
    return crosstable(f"romfac/{stem}-cells").cell(SHORT.get(method, method), names[column])


def poisoned(**wanted):
    wanted = {"attack_frequency": 1, "kl_budget": 6, "deployed": False} | wanted
    return [one for one in raw("tram") if wanted.items() <= one.items()]


def tram(row, learner, attack):
    task, _, figure = row.partition(", ")
    found = poisoned(task=task, learner=learner, attack=attack)
    figure = "battle_won" if figure == "battles won" else figure
    return Cell({one["seed"]: one["final"][figure] for one in found})


def variation(row, attack):
    name = re.split("[:`]", row)[0]
    return tram(f"{name}, {'battles won' if name.startswith('3m') else 'return'}", "DOP", attack)


def likelihood(learner, varied, attack, column):
    value = column if varied == "task" else float(column)
    wanted = {"task": "foraging", "learner": learner, "attack": attack} | {varied: value}
    values = [one["poison"]["log_likelihood"] for one in poisoned(**wanted)]
    return sum(values) / len(values)


def ordering(task, learner, column):
    if column == "L: variance < J < random":
        levels = [likelihood(learner, "task", a, task) for a in ("variance", "J", "random")]
        return "yes" if levels == sorted(levels) else "no"
    figure = {"foraging": "success", "3m": "battles won"}.get(task, "return")
    less, more = (tram(f"{task}, {figure}", learner, a).scores for a in column.split(" < "))
    seeds = sorted(less.keys() & more.keys())  # same training seeds, same test episodes
    if len(seeds) < 2:
        return "open"
    apart = interval([less[seed] - more[seed] for seed in seeds], limits=(-inf, inf))
    return "yes" if apart.high < 0.0 else "no" if apart.low > 0.0 else "open"


def matrix_games(row, column):
    known = raw("matrix_games")["returns"]["two-step" if column.startswith("two") else "climbing"]
    # all untrained teams act alike: by the same numbers, of which a mixer changes the sum alone
    scores = {int(s): v for s, v in known["untrained VDN" if row == "untrained" else row].items()}
    if column == "seeds at 11":
        return sum(values == [11.0] for values in scores.values())
    return Cell(scores, limits=(-inf, inf))


QUOTED = {
    "ours: MAPPO on foraging 5x5 without its mask, success, 3 seeds": (defences, "clean"),
    "ours with the action loss, weight ramped once and kept": (defences, "action loss"),
    "ours with the action loss in three loops": (defences, "action loss, repeated"),
    "ours, trained on FGSM in half of the episodes": (defences, "FGSM training"),
    "ours, trained on PGD in half of the episodes": (defences, "PGD training"),
    "ours: MAPPO on foraging 5x5 without its mask, with the KL form, success, 3 seeds": (
        defences,
        "policy loss (KL)",
    ),
    "ours: MAPPO there without defence": (defences, "clean"),
    "ours: QMIX with the hinge on skirmish's 3m, win rate, 3 seeds": (
        robust_qmix,
        "3m",
        "policy regularisation",
    ),
    "ours: QMIX there without defence": (robust_qmix, "3m", "QMIX"),
}


def quoted(row, column):
    if row not in QUOTED:
        return FROM_A_PAPER
    source, *team = QUOTED[row]
    attack = {"without attack": "none", "no agent attacked": "none", "under FGSM": "FGSM"}
    return source(*team, attack.get(column, "PGD"))


def atsa(part, row, column):
    table = crosstable(f"atsa/3s_vs_3z-QMIX{part}")
    if column == "AVG":
        found = table.average(row)
        return [found.mean, found.deviation]
    if column == "the paper's":
        printed = raw("atsa_paper")["3s_vs_3z QMIX"][row]
        return sum(printed) / len(printed)
    return table.cell(row, column)


def driving(backbone, part, row, column):
    table = crosstable(f"driving/{backbone}-{part}")
    figure = "crashed" if part == "crashed" else "return"
    if column == "AVG":
        found = table.average(row)
        return found.mean if part == "crashed" else [found.mean, found.deviation]
    if column == "the paper's":
        printed = raw("atsa_cav_paper")[backbone.rpartition("/")[2]][row][figure]
        return sum(printed) / len(printed)
    return table.cell(row, column)


def chase(name, part, row, column):
    backbone, _, method = row.partition(", ")
    if not method:
        backbone, method = "MADDPG", row  # random and untrained teams: alike in both
    table = crosstable(f"predator_prey/{name.format(backbone)}{part}")
    if column == "AVG":
        found = table.average(method)
        return [found.mean, found.deviation]
    if column == "the paper's":
        printed = raw("atsa_mpe_paper")[backbone][method]["return"]
        return sum(printed) / len(printed)
    return table.cell(method, column)


def atsa_mpe(row, column):
    backbone, _, way = row.partition(", ")
    method = way.split()[-1] if way else "NoAdv"
    returns = raw("atsa_mpe_paper")[backbone][method]["return"]
    columns = ("none", "RN", "FGSM", "ATLA", "PAAD", "ATSA")
    return sum(returns) / 6 if column == "mean" else returns[columns.index(column)]


RESULTS, CHOICE = "docs/results.md", "docs/methods/choose_defence.md"
CERTIFIED, PAAD, ATSA = (f"docs/methods/{name}.md" for name in ("certified", "paad", "atsa"))
MERGE, CHASE = "docs/envs/merge.md", "docs/envs/predator_prey.md"
EIR, ROMFAC, TRAM = (f"docs/methods/{name}.md" for name in ("eir_mappo", "romfac", "tram"))
TABLES = [
    ("README.md", "*Two foragers must load food together", quickstart),
    (RESULTS, "## Quickstart", quickstart),
    (RESULTS, "Under each attack of the suite:", quickstart_suite),
    (RESULTS, "## Robust QMIX", robust_qmix),
    (RESULTS, "## Defences compared", defences),
    ("docs/methods/action_loss.md", "## Figures beside", quoted),
    ("docs/methods/gradient_attacks.md", "## Figures beside", quoted),
    ("docs/methods/policy_regularization.md", "## Figures beside", quoted),
    (CERTIFIED, "## What came out", certified),
    (PAAD, "## What came out", directors),
    (ATSA, "### 3s_vs_3z, QMIX", partial(atsa, "")),
    (ATSA, "What the paper has not:", partial(atsa, "-ours")),
    (ATSA, "### Continuous actions", continuous),
    ("docs/methods/model_based.md", "## What it is worth", continuous),
    (EIR, "The published game, actors", partial(byzantine, "toy")),
    (EIR, "Actors that also see", partial(byzantine, "toy, last actions")),
    (EIR, "The alternating game, actors", partial(byzantine, "alternating toy")),
    (EIR, "## Results on 4m_vs_3m", partial(byzantine, "4m_vs_3m")),
    (EIR, "## Results on foraging", partial(byzantine, "foraging 12x12-4p-3f-c")),
    (ROMFAC, "| battles won | M = 0 | 2 |", partial(romfac, "battle-script", "red_won")),
    (ROMFAC, "| kills | M = 0 | 2 |", partial(romfac, "battle-script", "red_kills")),
    (ROMFAC, "Returns tell what wins do not", partial(romfac, "battle-script", "return")),
    (ROMFAC, "### Battle, 12 against 12, loops", partial(romfac, "battle_early-script", "return")),
    (
        ROMFAC,
        "--seeds 0 1 2 --episodes 25`: the paper's numbers",
        partial(romfac, "battle_64-script", "red_won"),
    ),
    (
        ROMFAC,
        "Returns, and what teams earn that play",
        partial(romfac, "battle_64-script", "return"),
    ),
    (ROMFAC, "### Battle, 64 against 64, as", partial(romfac, "battle_64_wide-script", "red_won")),
    (ROMFAC, "| kills | M = 0 | 8 |", partial(romfac, "battle_64_wide-script", "red_kills")),
    (ROMFAC, "Returns, with those of teams", partial(romfac, "battle_64_wide-script", "return")),
    (ROMFAC, "### Pursuit, 8 predators", partial(romfac, "pursuit-A2C", "return")),
    (ROMFAC, "### Pursuit, loops from the beginning", pursuit),
    (ROMFAC, "**What decisions hang on.**", weighing),
    (ROMFAC, "| against a director |", in_battle),
    (TRAM, "### Results", tram),
    (TRAM, "**DOP, by task**", partial(likelihood, "DOP", "task")),
    (TRAM, "**COMA, by task**", partial(likelihood, "COMA", "task")),
    (TRAM, "by $f_A$ (", partial(likelihood, "DOP", "attack_frequency")),
    (TRAM, "by $KL^U$ (", partial(likelihood, "DOP", "kl_budget")),
    (TRAM, "### Which orderings held", ordering),
    (TRAM, "**Dense rewards on mpe2", variation),
    ("docs/methods/qplex.md", "## Figures", matrix_games),
    (MERGE, "**QMIX, returns**", partial(driving, "QMIX", "return")),
    (MERGE, "**QMIX, crash rates**", partial(driving, "QMIX", "crashed")),
    (MERGE, "**QMIX, what the paper has not**", partial(driving, "QMIX", "ours")),
    (MERGE, "**VDN, returns**", partial(driving, "VDN", "return")),
    (MERGE, "**VDN, crash rates**", partial(driving, "VDN", "crashed")),
    (MERGE, "**VDN, what the paper has not**", partial(driving, "VDN", "ours")),
    (MERGE, "**With memory, returns**", partial(driving, "recurrent/QMIX", "return")),
    (MERGE, "**With memory, crash rates**", partial(driving, "recurrent/QMIX", "crashed")),
    (MERGE, "**With memory, what the paper has not**", partial(driving, "recurrent/QMIX", "ours")),
    (CHASE, "### At .05: three training seeds", partial(chase, "{}-0.05", "")),
    (CHASE, "Columns that the paper has not:", partial(chase, "{}-0.05", "-ours")),
    (CHASE, "### At .02:", partial(chase, "{}-0.02", "")),
    (CHASE, "What the paper has not, as above:", partial(chase, "{}-0.02", "-ours")),
    (CHASE, "### In mpe2's world, at .05", partial(chase, "explicit/{}-0.05", "")),
    (CHASE, "What the paper has not:", partial(chase, "explicit/{}-0.05", "-ours")),
    (CHASE, "The paper's figures (", atsa_mpe),
]


def table_after(page, words):
    """Return the heads and rows of the first table whose head is ``words``, or comes after them."""
    text = (ROOT / page).read_text("utf-8")
    assert text.count(words) == 1, f"{page} has {words!r} {text.count(words)} times"
    lines = text[text.rindex("\n", 0, text.index(words)) + 1 :].splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = takewhile(lambda line: line.startswith("|"), lines[begin:])
    head, _, *body = ([text.strip() for text in row.strip()[1:-1].split("|")] for row in rows)
    assert body
    return head, body


def numbers(known):
    if isinstance(known, Cell):
        return [known.estimate.mean, known.estimate.low, known.estimate.high]
    return known if isinstance(known, list) else [known]


def fits(printed, known):
    """Return whether a printed number is ``known``; of two that are as near both are right."""
    unit = 10.0 ** -len(printed.partition(".")[2])
    return abs(float(printed) - known) <= unit / 2 * (1 + 1e-6)


def complaint(text, known):
    """Return what is wrong about a printed entry, nothing if it is known."""
    if isinstance(known, str):
        return "" if known in (text, FROM_A_PAPER) else f"{text!r} is printed, {known!r} known"
    printed, known = re.findall(r"-?\d*\.?\d+", text), numbers(known)
    if len(printed) in (1, len(known)) and all(map(fits, printed, known)):
        return ""
    return f"{text!r} is printed, {[round(float(one), 4) for one in known]} known"


@pytest.mark.parametrize(("page", "words", "source"), TABLES)
def test_tables_are_what_raw_scores_come_to(page, words, source):
    head, body = table_after(page, words)
    labels = 2 if head[1] in ("team", "learner") else 1
    names, wrong = ("",) * labels, []
    for row in body:  # what is the same as in the row above is left out
        here = (one.replace("`", "").strip("*") for one in row[:labels])
        names = tuple(one or above for one, above in zip(here, names, strict=True))
        for column, text in zip(head[labels:], row[labels:], strict=True):
            found = text not in ("", "-") and complaint(text, source(*names, column))
            if found:
                wrong.append(f"{', '.join(names)} / {column}: {found}")
    assert not wrong, "\n".join(wrong)


def loss(pick, column):
    """Return the least or the most that a defence on foraging loses under attack."""
    teams = [team for team in raw("defences_worst") if team != "clean"]
    means = [[defences(team, c).estimate.mean for c in ("none", column)] for team in teams]
    return pick(clean - left for clean, left in means)


ATTACK, WORST, TWICE = "docs/evaluation/choose_attack.md", "worst of `quick`", "PGD-10 x 2"
CLEAN, FGSM, PGD, KL, ACTION = (
    partial(defences, team)
    for team in ("clean", "FGSM training", "PGD training", "policy loss (KL)", "action loss")
)
FGSM_3M = partial(robust_qmix, "3m", "FGSM training")
HINGE_3M = partial(robust_qmix, "3m", "policy regularisation")
HINGE_2S3Z = partial(robust_qmix, "2s3z", "policy regularisation")
HELD, PROVEN = (partial(certified, f"3s_vs_3z: {how} training") for how in ("PGD", "certified"))
MFAC, ROBUST = (partial(romfac, "battle-script", "red_won", team) for team in ("MFAC", "RoMFAC"))
KILLS, RETURN = (
    partial(romfac, "battle-script", figure, "MFAC") for figure in ("red_kills", "return")
)
MEAN = [
    (partial(byzantine, "4m_vs_3m", t), "mean of all") for t in ("EIR-MAPPO", "MADDPG", "M3DDPG")
]
SAID = [
    (RESULTS, "FGSM {}, PGD {}, worst {} on `3m`", [(FGSM_3M, a) for a in ("FGSM", "PGD", WORST)]),
    (RESULTS, "costs {} to {}, where", [(partial(loss, pick), WORST) for pick in (min, max)]),
    (RESULTS, "PGD costs {} to {}.", [(partial(loss, pick), "PGD-10") for pick in (min, max)]),
    (CHOICE, "mask: {} to {} and {} at the worst", [(one, WORST) for one in (CLEAN, PGD, FGSM)]),
    (CHOICE, "PGD of twice the size: {} to {};", [(PGD, TWICE), (FGSM, TWICE)]),
    (CHOICE, "lose to ten, {} and {} |", [(FGSM_3M, "FGSM"), (FGSM_3M, "PGD")]),
    (CHOICE, "`2s3z` at .1: {} under PGD", [(HINGE_2S3Z, "PGD")]),
    (CHOICE, "masked gradients, {} and {};", [(HINGE_3M, "FGSM"), (HINGE_3M, "PGD")]),
    (CHOICE, "{} at the worst of a suite, and {} under PGD of twice", [(KL, WORST), (KL, TWICE)]),
    (
        CHOICE,
        "{} with all agents attacked, where plain mean-field teams keep {} (",
        [(ROBUST, "12"), (MFAC, "12")],
    ),
    (CHOICE, "{} at the worst of a suite; in loops", [(ACTION, WORST)]),
    (CHOICE, "keeps {} at the worst of a suite, this {};", [(HELD, WORST), (PROVEN, WORST)]),
    (
        ATTACK,
        "keep {} of their battles under FGSM, {} under ten",
        [(partial(directors, a), "share won") for a in ("FGSM", "PGD-10")],
    ),
    (
        ATTACK,
        "PGD-10, and {} under an attack that",
        [(partial(quickstart_suite, "target 2"), "defended")],
    ),
    (ATTACK, "PGD-10 leaves {} (", [(MFAC, "12")]),
    (ATSA, "left {} of the battles won", [(partial(directors, "ATSA, 1 step"), "share won")]),
    (EIR, "{} beside MADDPG's {} and M3DDPG's {} |", MEAN),
    (
        ROMFAC,
        "kills {} to {}, return {} to {};",
        [(KILLS, "0"), (KILLS, "12"), (RETURN, "0"), (RETURN, "12")],
    ),
    (
        "docs/methods/gradient_attacks.md",
        "skirmish's 3m {} and {})",
        [(FGSM_3M, "FGSM"), (FGSM_3M, "PGD")],
    ),
    (
        "docs/methods/mappo.md",
        "success {}, a random team {} (",
        [(partial(quickstart, t), "none") for t in ("clean", "random")],
    ),
    (
        "docs/envs/foraging.md",
        "| {} | {} | {}, 5 seeds |",
        [(partial(quickstart, t), "none") for t in ("random", "untrained", "clean")],
    ),
]


@pytest.mark.parametrize(("page", "sentence", "sources"), SAID)
def test_sentences_say_what_raw_scores_come_to(page, sentence, sources):
    words = " ".join((ROOT / page).read_text("utf-8").split())
    hole = r"(-?\d*\.?\d+(?: \[[^]]+\])?)"
    (found,) = re.finditer(hole.join(map(re.escape, sentence.split("{}"))), words)
    wrong = [
        complaint(text, source(column))
        for text, (source, column) in zip(found.groups(), sources, strict=True)
    ]
    assert not any(wrong), wrong
