"""ATSA's CAV task [Zhou2025]_: cars that merge, on highway-env.

``merge`` makes an environment of ``Traffic``, which needs highway-env; ``MergeEngine`` plays many
episodes at once and does not.
"""

# rules says what is played, _world plays it in highway-env, parallel makes an environment of that,
# and engine plays it in the two kernels.

from robustmarl.envs.merge.engine import MergeEngine
from robustmarl.envs.merge.parallel import MergeParallelEnv, merge
from robustmarl.envs.merge.rules import Traffic, car_reward

__all__ = ["MergeEngine", "MergeParallelEnv", "Traffic", "car_reward", "merge"]
