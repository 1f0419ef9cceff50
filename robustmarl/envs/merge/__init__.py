"""ATSA's CAV task [Zhou2025]_: cars that merge, on highway-env.

``merge`` makes an environment of ``Traffic``. Playing needs highway-env, importing this does not.
"""

# rules says what is played, _world plays it in highway-env, and parallel makes an environment of
# that.

from robustmarl.envs.merge.parallel import MergeParallelEnv, merge
from robustmarl.envs.merge.rules import Traffic, car_reward

__all__ = ["MergeParallelEnv", "Traffic", "car_reward", "merge"]
