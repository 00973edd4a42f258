"""One process of a small run of several: python -m tests.support.distributed_run ...

Arguments: port, number of processes, own number, folder, and changes to the config in JSON.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def config_of(folder, **changes):
    """The config of a toy run on shapes; the data are in `folder`."""
    from segjax.config import OptimConfig, TrainConfig
    from segjax.data.config import DataConfig
    from segjax.data.shapes import ShapesConfig
    from segjax.optim import Warmup
    from tests.support.toy import Toy

    shapes = ShapesConfig(image_size=32, num_train=20, num_val=7, min_side=8, max_side=16)
    data = DataConfig(
        name="shapes",
        shapes=shapes,
        root=str(folder / "shapes"),
        cache_dir=str(folder / "cache"),
        resize="none",
        batch_size=4,
        eval_batch_size=4,
        num_workers=0,
    )
    data = dataclasses.replace(data, **changes.pop("data", {}))
    config = TrainConfig(
        model=Toy(num_classes=0, frozen=()),
        data=data,
        optim=OptimConfig(learning_rate=0.05, warmup=Warmup(steps=2)),
        steps=10,
        log_every=1,
        eval_every=5,
        keep_best=None,
        keep_last=9,
        num_pictures=1,
    )
    return dataclasses.replace(config, **changes)


def evaluated(folder, share=None, devices=None, **fields):
    """Scores of a model that knows the truth of the folder `fakes.write_folder` makes."""
    import jax

    from segjax import distributed
    from segjax.data.config import DataConfig
    from segjax.data.dataset import open_dataset
    from segjax.eval.runner import Evaluator
    from tests.support import fakes

    data = DataConfig(
        root=str(folder / "fakes"),
        cache_dir=str(folder / "cache"),
        short_side=(64,),
        long_side=96,
        eval_batch_size=3,
        **fields,
    )
    evaluator = Evaluator(
        fakes.OracleModel(),
        open_dataset(data),
        data,
        devices=tuple(jax.local_devices() if devices is None else devices),
        share=share or (distributed.process_index(), distributed.process_count()),
    )
    results = evaluator(evaluator.placed(fakes.oracle_variables()))
    return {"metrics": results.metrics(), "detections": results.detections}


def start(index, folder, *, port, count=2, devices=2, **changes):
    """Starts one process of a run; its output is a file in `folder`."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-m", "tests.support.distributed_run"]
    arguments = [str(port), str(count), str(index), str(folder), json.dumps(changes)]
    output = (folder / f"output_{index}.txt").open("w")
    return subprocess.Popen(
        [*command, *arguments], env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
    )


def main():
    port, count, index, folder, changes = sys.argv[1:]
    from segjax import distributed
    from segjax.train.interrupts import TrainingInterrupted
    from segjax.train.loop import train

    distributed.start(distributed.Cluster(f"localhost:{port}", int(count), int(index)))
    changes = json.loads(changes)
    if "evaluate" in changes:
        print(json.dumps(evaluated(Path(folder), **changes["evaluate"])))
        distributed.barrier("the end")
        return
    try:
        results = train(config_of(Path(folder), **changes))
    except TrainingInterrupted as stop:
        print(stop)
    else:
        print(json.dumps({"metrics": results.metrics, "compilations": results.compilations}))


if __name__ == "__main__":
    main()
