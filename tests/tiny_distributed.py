"""Training of a tiny task in several processes.

python -m tests.tiny_distributed HOST:PORT PROCESSES NUMBER WORKDIR EVALUATIONS
"""

import sys
from pathlib import Path

import jax
import numpy as np

from dagr_jax.data import loader
from dagr_jax.runtime import distributed
from dagr_jax.train import mesh as meshes
from dagr_jax.train.loop import fit, predict_all
from tests.train.tiny import meta, optim, records, stage, tiny_state

CONFIG = stage(steps=12, eval_every=4, log_every=1, optim=optim(ema=0.9))


class Stopped(Exception):
    """Raised after the given number of evaluations."""


def train(workdir: Path, devices: list[jax.Device] | None = None, evaluations: int = 99) -> None:
    """Trains twelve steps with dropout and an evaluation after every four steps.

    Raises:
        Stopped: In the evaluation after `evaluations`; the step is not saved.
    """
    mesh = meshes.make_mesh(devices)
    task, state = tiny_state(CONFIG, dropout=0.3)
    data = records()
    predict = meshes.jit_predict(task.predict, mesh)
    left = [evaluations]

    def evaluate(state):
        if not left[0]:
            raise Stopped
        left[0] -= 1
        variables = meshes.put_whole(state.variables_to_use(), mesh)
        # With 24 records in batches of 10, the last batch is padded, in part in the last process.
        batches = loader.eval_batches(data, batch_size=10, share=distributed.share())
        found = np.zeros(len(data))
        for index, values in predict_all(predict, variables, batches, mesh):
            found[index] += values
        target = [record["target"] for record in data]
        return {"srcc": float(np.corrcoef(found, target)[0, 1])}

    fit(
        name="vqa",
        task=task,
        config=CONFIG,
        state=state,
        train_iter=loader.train_iterator(
            data, batch_size=8, seed=1, workers=0, share=distributed.share()
        ),
        evaluate=evaluate,
        workdir=workdir,
        meta=meta(),
        mesh=mesh,
    )


def main(coordinator: str, processes: str, number: str, workdir: str, evaluations: str) -> None:
    distributed.connect(coordinator, int(processes), int(number))
    try:
        train(Path(workdir), evaluations=int(evaluations))
    except Stopped:
        distributed.disconnect()


if __name__ == "__main__":
    main(*sys.argv[1:])
