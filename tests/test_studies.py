"""What the studies in ``examples`` take for done, and what they run again."""

import importlib.util
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from robustmarl.evaluation import Workplace
from robustmarl.victims import FunctionVictim, Rows

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def study(monkeypatch):
    """Return what imports an example, and what returns its arguments as typed."""
    monkeypatch.syspath_prepend(EXAMPLES)  # some import what they share

    def imported(name):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)

        def typed(*words):
            monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
            return module.parsed()

        return module, typed

    return imported


def settings(cells):
    return {cell.name: cell.settings for cell in cells}


@pytest.mark.parametrize("option", ["--episodes", "--tests", "--test-episodes"])
def test_tram_runs_again_what_was_tested_otherwise(study, option):
    tram, typed = study("tram")
    usual, other = settings(tram.cells(typed())), settings(tram.cells(typed(option, "5")))
    assert usual.keys() == other.keys()
    same = {name for name in usual if usual[name] == other[name]}
    tested = {name for name in usual if "random-none" in name or "untrained-none" in name}
    assert same == (set() if option == "--episodes" else tested)


def test_tram_keeps_trainings_of_other_lengths_apart(study):
    tram, typed = study("tram")
    usual, short = typed(), typed("--env-steps", "900")
    assert usual.out != short.out
    name = "3m-DOP-none-f1-k6-s0"
    steps = [settings(tram.cells(args))[name]["lengths"]["env_steps"] for args in (usual, short)]
    assert steps == [80_000, 900]


def test_byzantine_runs_again_what_was_tested_otherwise(study):
    byzantine, typed = study("byzantine")
    usual, other = typed(), typed("--episodes", "5")
    before, after = settings(byzantine.planned(usual)), settings(byzantine.planned(other))
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)


def test_byzantine_keeps_no_transfers_of_other_lengths(study, tmp_path):
    byzantine, typed = study("byzantine")
    run = byzantine.Run(task="toy", method="MAPPO", seed=0)
    (tmp_path / "transfers").mkdir()
    file = tmp_path / "transfers" / f"{run.name}.json"
    usual, other = (byzantine.asked(typed(*words)) for words in ((), ("--episodes", "5")))
    known = {"from QMIX": {"agent_0": [1.0]}}
    file.write_text(byzantine.json.dumps({"scores": known, "group": ["MAPPO"], "asked": usual}))
    assert byzantine.moved(tmp_path, run) == byzantine.moved(tmp_path, run, usual) == known
    assert byzantine.moved(tmp_path, run, other) == {}


def test_romfac_trains_directors_anew_against_other_teams(study):
    romfac, _ = study("romfac")
    (name, task), *_ = romfac.TASKS.items()

    def told(task, rounds):
        return romfac.after("director", (name, "MFAC", 0), task, 4, rounds).settings

    usual = told(task, 9)
    assert told(replace(task, lr=2 * task.lr), 9) != usual
    assert told(task, 8) != usual


@pytest.mark.parametrize("read", [1, 2, 4])
def test_romfac_counts_the_cells_on_which_decisions_hang(study, read):
    """A policy that adds up some cells of nine hangs on these alike, on none that is empty."""
    romfac, _ = study("romfac")
    weights = torch.zeros(18, 2)
    weights[: 2 * read, 0] = 0.05  # small: changes in probability are nearly linear
    counter = romfac.CellProbe((3, 3, 2))
    obs = torch.ones(5, 18)
    obs[:, -4:] = 0.0
    shown = counter(FunctionVictim(lambda o: o @ weights).at(Rows()), obs)
    assert torch.equal(shown, obs)
    assert counter.found["weighing"] == pytest.approx([read], rel=1e-3)
    assert counter.found["most"] == pytest.approx([0.5 * 0.05], rel=0.05)
    assert counter.found["occupied"] == [7.0]
    blind = romfac.CellProbe((3, 3, 2))
    blind(FunctionVictim(lambda o: 0.0 * o @ weights).at(Rows()), obs)
    assert blind.found == {"most": [0.0], "weighing": [], "occupied": [7.0]}


def test_atsas_finished_cells_stay_valid_without_a_ramp(study):
    atsa, _ = study("atsa")
    task = atsa.PRESETS["quick"]["3m"]
    assert task.plan.keys() == asdict(task).keys() - {"attacked_by_atla", "falls", "ramp", "scale"}
    assert task.radius is None
    rising = replace(task, ramp=0.5)
    assert rising.plan["ramp"] == 0.5
    assert rising.label != task.label
    assert rising.radius(task.steps // 4) == pytest.approx(task.epsilon / 2)


@pytest.mark.parametrize(
    ("method", "term"),
    [("PR", "policy_loss"), ("PR-REP", "policy_loss"), ("ERNIE", "lipschitz_loss")],
)
def test_atsas_terms_are_of_the_size_of_q_values(study, tmp_path, method, term):
    atsa, _ = study("atsa")
    task = replace(atsa.PRESETS["quick"]["3m"], scale=20.0)
    assert task.plan["scale"] == 20.0
    assert task.label.endswith("-q20")
    made = {}
    for scale in (1.0, 20.0):
        group = atsa.Group("3m", "VDN", 0, replace(task, scale=scale), tmp_path)
        made[scale] = atsa.build(method, group).team._terms[term]
    weights = [made[scale].weight(task.steps - 1) for scale in made]
    assert weights == pytest.approx([0.1, 2.0], rel=1e-3)
    if term == "policy_loss":
        assert [made[scale].margin for scale in made] == [1.0, 20.0]


def test_certified_finds_no_weights_of_another_task(study, tmp_path, monkeypatch):
    """Those of the same are loaded: here they are no weights at all."""
    certified, _ = study("certified")
    task = replace(certified.TASKS["3m"], steps=80)
    place = Workplace(folder=tmp_path / "plain-0", study=tmp_path)
    (place.folder_for(asdict(task)) / "weights.pt").touch()
    trained = []
    monkeypatch.setattr(certified.training, "load_weights", lambda team, path: None)
    monkeypatch.setattr(certified.training, "run", lambda *a, **k: trained.append(k["env_steps"]))
    certified.trained(place, "3m", task, "plain", 0)
    assert trained == []
    certified.trained(place, "3m", replace(task, steps=160), "plain", 0)
    assert trained == [160]


def rows_of(driving, **returns):
    usual = dict.fromkeys(driving.COLUMNS, 60.0)
    return {
        method: {"return": [*(usual | found).values()], "crashed": [0.0] * len(usual)}
        for method, found in returns.items()
    }


def test_driving_judges_the_papers_claims_by_one_rule_for_both(study):
    driving, _ = study("driving")
    found = driving.said(rows_of(driving, NoAdv={"PAAD": 29.0}, PAAD={}, ATSA={"RN": 66.0}))
    assert found["the best average"] == ("ATSA 61.0, PAAD 60.0, NoAdv 54.8", "ATSA")
    lost = "who loses most of the return under FGSM, PAAD or ATSA"
    assert found[lost] == ("NoAdv 60.0 to 29.0", {"NoAdv"})
    held = "who keeps more than half under all three"
    assert found[held] == ("PAAD 60.0 to 60.0, ATSA 60.0 to 60.0", {"PAAD", "ATSA"})
    assert found["who keeps most under the attack it trained beside"][1] == {"PAAD", "ATSA"}
    assert found["the strongest attack, by what is left on average"][1] == "PAAD"
    assert found["what hardly harms the undefended team"][1] == {"RN", "ATLA"}
    better = "the better without attack: trained beside PAAD or ATSA"
    assert found[better] == ("60.0, 60.0", "PAAD")


def test_driving_says_how_its_figures_are_like_the_papers(study):
    driving, _ = study("driving")
    results = driving.Results("QMIX", {})
    assert results.claims() == ""

    def judged(backbone, *known):
        paper = driving.json.loads(driving.PRINTED.read_text("utf-8"))
        results = driving.Results(backbone, {})
        results.known = list(known)
        results.means = lambda method, figure="return": paper["VDN"][method][figure]
        lines = [line.strip("| ").split(" | ") for line in results.claims().splitlines()[2:]]
        return {line[0]: line[-1] for line in lines}

    assert set(judged("VDN", *driving.PAPER).values()) == {"yes"}
    other = judged("QMIX", *driving.PAPER)
    assert other["the best average"] == "no"
    assert other["the strongest attack, by what is left on average"] == "no"
    assert other["who keeps most under the attack it trained beside"] == "yes"
    few = judged("QMIX", "NoAdv", "RN")
    assert "who keeps most under the attack it trained beside" not in few


def test_driving_says_what_the_papers_own_figures_say(study):
    driving, _ = study("driving")
    paper = driving.json.loads(driving.PRINTED.read_text("utf-8"))
    lost = "who loses most of the return under FGSM, PAAD or ATSA"
    of = {backbone: driving.said(paper[backbone]) for backbone in ("VDN", "QMIX")}
    assert [of[b]["the best average"][1] for b in of] == ["PR-REP", "ATSA"]
    assert of["VDN"][lost][1] ^ of["QMIX"][lost][1] == {"ATLA", "ERNIE"}
    crashes = "the most that a defended team crashes, a fifth or less"
    assert of["QMIX"][crashes] == ("0.16, RN under PAAD", True)


@pytest.mark.parametrize("name", ["driving", "predator_prey"])
def test_tests_of_the_directed_studies_come_after_what_they_need(study, name):
    module, _ = study(name)
    backbone, more = ("MADDPG", [[0.05]]) if name == "predator_prey" else ("QMIX", [])

    def jobs_of(**how):
        of = module.TASKS if name == "driving" else module.TASKS["explicit"]
        tasks = {backbone: replace(of[backbone], **how)}
        return module.jobs_of(tasks, [backbone], ["ATSA"], *more, [0])

    jobs = jobs_of()
    seen = set()
    for job in jobs:
        assert seen.issuperset(job.after)
        seen.add(job.key)
    tests = [job for job in jobs if job.key[0] == "test"]
    assert {job.key[2] for job in tests} == {"ATSA", module.BLIND}
    (own,) = [job for job in tests if job.key[2] == "ATSA"]
    assert {key[2] for key in own.after} >= {"ATSA", "ATLA", "PAAD"}
    longer = jobs_of(steps=9)
    same = {job.key[2] for job in jobs if settings(longer)[job.name] == job.settings}
    assert same == ({module.HEAD} if name == "predator_prey" else set())


def test_cells_and_folders_tell_what_a_backbone_is_trained_with(study, tmp_path):
    driving, _ = study("driving")
    told, folders = {}, {}
    for backbone in driving.BACKBONES:
        (job, *_) = driving.jobs_of(driving.TASKS, [backbone], ["NoAdv"], [0])
        task = job.settings["task"]
        told[backbone] = [task[key] for key in ("lr", "falls", "scale", "attacked_by_atla")]
        folders[backbone] = driving._group(tmp_path, backbone, 0, driving.TASKS[backbone]).folder
    assert told == {"VDN": [3e-3, 0.5, 5.0, 0.5], "QMIX": [1e-3, 0.5, 100.0, 0.5]}
    endings = {name: folder.name.partition("-a0.5")[2] for name, folder in folders.items()}
    assert endings == {"VDN": "-atla0.5-lr0.003-f0.5-q5", "QMIX": "-atla0.5-f0.5-q100"}


def test_the_settings_of_before_are_options(study, monkeypatch, tmp_path):
    driving, _ = study("driving")
    seen = []
    monkeypatch.setattr(driving, "jobs_of", lambda tasks, *rest: seen.append(tasks) or [])
    options = "--steps 400000 --falls 1 --scale 1 --atla 1 --report"
    argv = ["driving.py", *options.split(), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", argv)
    (tmp_path / "scale-1").mkdir()
    driving.main()
    plan = seen[0]["QMIX"].plan
    assert not {"falls", "scale", "attacked_by_atla"} & plan.keys()
    assert (plan["steps"], plan["alpha_steps"]) == (400_000, 150_000)
    monkeypatch.setattr("sys.argv", ["driving.py", "--falls", "1.5"])
    with pytest.raises(SystemExit):
        driving.main()


@pytest.mark.parametrize(("normed", "rate"), [(True, None), (False, 0.5)])
@pytest.mark.parametrize("integrator", ["explicit", "semi-implicit"])
def test_predator_prey_trains_with_what_its_cells_and_folders_tell(
    study, tmp_path, normed, rate, integrator
):
    chase, _ = study("predator_prey")
    wanted = {"layer_norm": normed, "actor_lr": rate}
    of = chase.TASKS[integrator]
    tasks = {backbone: replace(task, **wanted) for backbone, task in of.items()}
    jobs = chase.jobs_of(tasks, list(chase.BACKBONES), ["NoAdv"], [0.05], [0])
    told = [job.settings["task"] for job in jobs]
    assert {one["layer_norm"] for one in told} == {normed}
    assert {one.get("integrator", "explicit") for one in told} == {integrator}
    assert {one.get("actor_lr") for one in told} == {rate}
    ending = (
        ("-0.5" if rate else "")
        + ("-n" if normed else "")
        + ("-s" if integrator == "semi-implicit" else "")
    )
    for name, task in tasks.items():
        assert task.label.endswith(f"-a0.5-lr0.01{ending}")
        group = chase.group_of(tmp_path, name, 0, task, "NoAdv")
        team = chase.build("NoAdv", group).team
        parts = team.policy.network.modules()
        assert any("LayerNorm" in type(part).__name__ for part in parts) == normed
        rates = [one._optim.param_groups[0]["lr"] for one in (team.optim, team.critic_optim)]
        assert rates == [rate or task.lr, task.lr]
        for world in (group.name, task.world):  # what is trained in, and tested
            engine = chase.atsa.maker(world)().make_engine(1)
            assert engine.rules.implicit == (integrator == "semi-implicit")


def test_predator_prey_says_of_the_papers_own_figures_that_its_claims_hold(study):
    chase, _ = study("predator_prey")
    of = {}
    for backbone in chase.BACKBONES:
        of[backbone] = chase.Results(backbone, 0.05, {})
        of[backbone].known = list(chase.METHODS)
        paper = of[backbone].paper
        of[backbone].means = lambda method, paper=paper: paper[method]["return"]
    lines = [line for one in of.values() for line in one.claims(of).splitlines()[2:]]
    assert len(lines) == 6
    assert all(line.endswith("| yes |") for line in lines)
    of["MADDPG"].means = lambda method: [70.0] if method == "ATSA" else [80.0, 10.0]
    judged = [line.rpartition("| ")[2] for line in of["MADDPG"].claims(of).splitlines()[2:]]
    assert judged == ["yes |", "no |", "no |"]


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("backbone", ["MADDPG", "FACMAC", "VDN", "QMIX"])
def test_teams_with_memory_are_told_their_last_actions(study, tmp_path, backbone, recurrent):
    """Their directors always are; those of skirmish maps as the teams themselves."""
    chasing = backbone in ("MADDPG", "FACMAC")
    of, _ = study("predator_prey" if chasing else "driving")
    task = (of.TASKS["semi-implicit"] if chasing else of.TASKS)[backbone]
    task = replace(of.atsa.smoke(task), recurrent=recurrent)
    name = task.world if chasing else "merge"
    group = of.Group(name, backbone, 0, task, tmp_path)
    for method in ("NoAdv", "FGSM", "ATLA", "PAAD", "ATSA"):
        made = of.build(method, group)
        network = made.team.policy.network
        assert (
            any(isinstance(one, torch.nn.GRU | torch.nn.GRUCell) for one in network.modules())
            is recurrent
        )
        assert (network.last_table is not None) is recurrent
        if method in ("PAAD", "ATSA") and chasing:
            assert made.adversary.director.network.last_table is not None


def test_robust_qmix_tests_with_adversaries_of_its_own_trainings(study):
    robust, _ = study("robust_qmix")
    jobs = robust.jobs_of(["3m"], ["QMIX"], [4], None, 8, "noise")
    trained = {key[2] for key in (job.key for job in jobs) if key[0] == "train"}
    assert trained == {"QMIX", *robust.TEACHERS.values()}
    (own,) = [job for job in jobs if job.key == ("test", "3m", "QMIX", 4)]
    assert {key[2] for key in own.after} == trained
    assert {key[1::2] for key in own.after} == {("3m", 4)}
    longer = settings(robust.jobs_of(["3m"], ["QMIX"], [4], None, 9, "noise"))
    same = {job.key[0] for job in jobs if longer[job.name] == job.settings}
    assert same == {"train"}


def test_robust_qmix_keeps_what_is_shown_in_range(study):
    robust, _ = study("robust_qmix")
    balls = [attack.ball for attack in robust.tests("3m").values() if attack is not None]
    for method in ("FGSM training", "PGD training"):
        balls.append(robust.build(method, "3m", 0)[2].attack.ball)
    assert {(ball.low, ball.high) for ball in balls} == {(-1.0, 1.0)}


def test_robust_qmix_reports_wins_and_returns_of_every_cell(study, tmp_path):
    """Five victims x four attacks x four maps, 32 episodes each."""
    robust, _ = study("robust_qmix")
    victims = ["QMIX", "FGSM training", "policy regularisation", "ATLA training", "PA-AD training"]
    rng = robust.np.random.default_rng(0)
    columns = {"none": "none", "FGSM": "FGSM 0.1", "ATLA": "ATLA", "PA-AD": "PA-AD"}
    printed = 0
    for name in ("2m_vs_1z", "3m", "3s_vs_3z", "2s3z"):
        cells = [
            {
                "method": method,
                "seed": 0,
                "scores": {
                    attack: {
                        "battle_won": rng.integers(2, size=32).tolist(),
                        "return": rng.normal(10.0, 2.0, size=32).tolist(),
                    }
                    for attack in columns.values()
                },
            }
            for method in victims
        ]
        table = robust.table_of(cells, columns, name)
        assert table.victims == tuple(victims)
        lines = robust.returns_of(cells, columns).splitlines()[2:]
        for cell, line in zip(cells, lines, strict=True):
            texts = line.strip("| ").split(" | ")
            assert texts[0] == cell["method"]
            for (column, attack), text in zip(columns.items(), texts[1:], strict=True):
                scores = cell["scores"][attack]
                wins, returns = map(robust.np.array, scores.values())
                assert table.mean(cell["method"], column) == wins.mean()
                assert table.cell(cell["method"], column).estimate.n_episodes == 32
                assert text == f"{returns.mean():.1f} ± {returns.std():.1f}"
                printed += 1
    assert printed == 80


def test_robust_qmix_judges_claims(study):
    robust, _ = study("robust_qmix")
    won = {
        "QMIX": (1.0, 0.0, 0.05, 0.0),
        "FGSM training": (0.97, 0.6, 0.9, 0.4),
        "ATLA training": (1.0, 0.0, 1.0, 0.2),
        "PA-AD training": (1.0, 0.7, 1.0, 0.95),
    }
    cells = {
        method: {
            column: robust.evaluation.Cell(
                {0: [1.0] * round(100 * s) + [0.0] * round(100 - 100 * s)}
            )
            for column, s in zip(("none", "FGSM", "ATLA", "PA-AD"), shares, strict=True)
        }
        for method, shares in won.items()
    }
    lines = robust.claims(robust.evaluation.CrossTable(cells=cells, metric="win rate", title=""))
    held = [line.strip("| ").split(" | ")[-1] for line in lines.splitlines()[2:]]
    assert held == ["yes", "yes", "no", "yes", "yes"]
    assert "PA-AD training 0.88, FGSM training 0.63, ATLA training 0.40, QMIX 0.02" in lines


def test_romfacs_early_loops_begin_before_the_usual(study):
    romfac, _ = study("romfac")
    usual, early = (romfac.TASKS[name] for name in ("battle", "battle early"))
    for task, begins, ends in ((usual, 180, 220), (early, 30, 120)):
        weights = [romfac.loss_of("RoMFAC", task).weight(number) for number in range(task.rounds)]
        assert weights[begins] == weights[ends] == 0.0 < weights[begins + 1]
        assert max(weights) == weights[ends - 1] == task.peak
    assert romfac.plan_of(usual, 1).keys() == romfac.plan_of(early, 1).keys()
    copied = romfac.plan_of(romfac.TASKS["battle self-play"], 1)
    assert copied.keys() - romfac.plan_of(usual, 1).keys() == {"copied"}
