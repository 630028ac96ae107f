"""Writing videos."""

import os
import subprocess
import sys

import numpy as np
import pytest

from dagr_jax.video.encode import ENCODERS, write_video


@pytest.mark.parametrize("codec", ENCODERS)
def test_an_encoder_takes_no_priority_over_the_rest_of_the_machine(tmp_path, codec):
    """As root, SVT-AV1 raises the priority of its threads, of ours and of our child processes."""
    policies = set()

    def frames():
        for value in (0, 128, 255):
            yield np.full((64, 64, 3), value, np.uint8)
            threads = os.listdir("/proc/self/task")
            policies.update(os.sched_getscheduler(int(thread)) for thread in threads)

    write_video(tmp_path / "a.mkv", frames(), fps=25, codec=codec)
    child = [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"]
    told = subprocess.run(child, capture_output=True, text=True, check=True).stdout
    assert policies == {os.SCHED_OTHER} == {int(told)}
