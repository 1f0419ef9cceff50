"""Studies as YAML, and the command line that runs them."""

import subprocess
import sys
from functools import partial

import pytest

from robustmarl import envs
from robustmarl.__main__ import main
from robustmarl.adversaries import ObsAdversaryPPO
from robustmarl.algorithms import QMIX, VDN
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.evaluation import Defence, Grid, Learned, Recipe
from robustmarl.learning import adam
from robustmarl.losses import ActionLoss, ActionLossRegularizer
from robustmarl.perturbers import ObsPerturber
from robustmarl.schedules import Linear
from robustmarl.training import OffPolicy

STUDY = """
victims:
  VDN: &small
    algorithm: VDN
    env_steps: 12
    num_envs: 2
    learn: !OffPolicy {batch_size: 2, learning_starts: 2, buffer_episodes: 8}
    settings: {hidden: [4], optim: !adam 1e-3}
  QMIX:
    <<: *small
    algorithm: QMIX
defences:
  none:
  PGD training:
    perturb: !ObsPerturber
      attack: &pgd !PGD {ball: &ball !LinfBall {epsilon: 0.1}, steps: 2}
      episodes: 0.5
  action loss:
    mixins: [ActionLossRegularizer]
    settings:
      action_loss: !ActionLoss
        attack: !PGD.fgsm [*ball]
        weight: !Linear {start: 0.0, stop: 1, over: 5}
  ATLA:
    adversary: !ObsAdversaryPPO {ball: *ball}
attacks:
  none:
  noise: !UniformNoise {ball: *ball}
  PGD twice: [*pgd, !UniformNoise {ball: *ball}]
  ATLA: !Learned {adversary: !ObsAdversaryPPO {ball: *ball}, env_steps: 8, num_envs: 2}
environments:
  signals: !SignalMatching {horizon: 3}
seeds: [0, 1]
episodes: 3
num_envs: 2
"""


def declared():
    ball = LinfBall(epsilon=0.1)
    small = {
        "env_steps": 12,
        "num_envs": 2,
        "learn": OffPolicy(batch_size=2, learning_starts=2, buffer_episodes=8),
        "settings": {"hidden": [4], "optim": adam(1e-3)},
    }
    loss = ActionLoss(attack=PGD.fgsm(ball), weight=Linear(0.0, 1, over=5))
    atla = partial(ObsAdversaryPPO.for_env, ball=ball)
    return Grid(
        victims={
            "VDN": Recipe(algorithm=VDN, **small),
            "QMIX": Recipe(algorithm=QMIX, **small),
        },
        defences={
            "none": Defence(),
            "PGD training": Defence(perturb=ObsPerturber(PGD(ball=ball, steps=2), episodes=0.5)),
            "action loss": Defence(mixins=[ActionLossRegularizer], settings={"action_loss": loss}),
            "ATLA": Defence(adversary=atla),
        },
        attacks={
            "none": None,
            "noise": UniformNoise(ball=ball),
            "PGD twice": [PGD(ball=ball, steps=2), UniformNoise(ball=ball)],
            "ATLA": Learned(adversary=atla, env_steps=8, num_envs=2),
        },
        environments={"signals": partial(envs.SignalMatching, horizon=3)},
        seeds=[0, 1],
        episodes=3,
        num_envs=2,
    )


def test_a_file_declares_what_python_does(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    for source in (STUDY, path, str(path)):
        found = Grid.from_yaml(source)
        assert found.settings() == declared().settings()
        assert (found.seeds, found.baselines) == ((0, 1), True)
    assert list(found.defences) == ["none", "PGD training", "action loss", "ATLA"]
    assert found.attacks["noise"] == declared().attacks["noise"]


SHORT = """
victims: {VDN: {algorithm: VDN, env_steps: 8, learn: !OffPolicy {learning_starts: 2}}}
attacks: {none: , noise: !UniformNoise {ball: !LinfBall {epsilon: 0.5}}}
environments: {signals: !SignalMatching {horizon: 3}}
episodes: 3
"""


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("!LinfBall", "!os.system", r"line 3 must be one of \[.*got 'os\.system'"),
        ("!LinfBall", "!python/object/apply:os.system", r"got 'python/object/apply:os\.system'"),
        ("!LinfBall", "!!python/name:os.system", r"could not determine a constructor"),
        ("!LinfBall", "!LinfBal", r"must be one of \['LinfBall'.*got 'LinfBal'"),
        ("!SignalMatching", "!MyEnv", r"\] or \d+ others, got 'MyEnv'\. .* your own go into Grid"),
        ("algorithm: VDN", "algorithm: VDM", r"victims\.VDN\.algorithm must be one of \['VDN'"),
        ("algorithm: VDN", "algorithm: 3", r"victims\.VDN\.algorithm must be a name of robustmarl"),
        ("epsilon: 0.5", "epsilon: -0.5", r"line 3, LinfBall: LinfBall\.epsilon must be a number"),
        ("epsilon:", "radius:", r"line 3, LinfBall: .*unexpected keyword argument 'radius'"),
        ("env_steps: 8", "env_steps: 0", r"victims\.VDN: Recipe\.env_steps must be an int >= 1"),
        ("episodes: 3", "episode: 3", r"must be one of \['episodes', .*got 'episode'"),
        (
            "episodes: 3",
            "episodes: 3\nepisodes: 4",
            r"a mapping with each name once, got \['episodes'\]",
        ),
        ("attacks:", "attack:", r"must be one of \['attacks', .*got 'attack'"),
        ("attacks:", "defences:", r"defences\.noise must be a mapping from settings"),
        ("attacks: {", "attacks: {{", r"must be YAML that declares a study: while"),
    ],
)
def test_what_is_not_ours_or_wrong_is_refused(old, new, text):
    with pytest.raises((TypeError, ValueError), match=text):
        Grid.from_yaml(SHORT.replace(old, new, 1))


def test_a_study_needs_victims_attacks_and_environments():
    with pytest.raises(ValueError, match=r"Grid\.from_yaml\.source must be given environments"):
        Grid.from_yaml(SHORT.replace("environments: {signals: !SignalMatching {horizon: 3}}", ""))
    with pytest.raises(TypeError, match=r"must be YAML that declares a study, got \['a'\]"):
        Grid.from_yaml("- a\n")


def test_the_command_line_runs_and_reports(tmp_path, capsys):
    study, out = tmp_path / "study.yaml", tmp_path / "out"
    study.write_text(SHORT)
    run = ["grid", str(study), "--out", str(out), "--executor", "serial", "--quiet"]
    assert main(run) == 0
    shown = capsys.readouterr().out
    assert "untrained" in shown
    assert "VDN" in shown
    for name in ("report.md", "signals.json", "signals.png"):
        assert (out / "report" / name).exists()
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out == shown
    study.write_text(SHORT.replace("episodes: 3", "episodes: 4"))
    assert main(run) == 2
    assert "must be of a study with these settings" in capsys.readouterr().err
    study.write_text(SHORT.replace("env_steps: 8", "env_steps: 8, settings: {gama: 1}"))
    assert main([*run[:3], str(tmp_path / "bad"), *run[4:]]) == 1
    found = capsys.readouterr()
    assert "Did you mean 'gamma'?" in found.err
    assert "random" in found.out
    assert main(["report", str(tmp_path)]) == 2


def test_help_is_cheap():
    code = (
        "import sys; from robustmarl.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.endswith("False\n")
    assert "report" in found.stdout
