"""Features that work without packages needed only for training data."""

import subprocess
import sys

BLOCKED = """
import sys
for name in ("tensorflow_datasets", "grain", "array_record", "tensorflow", "orbax"):
    sys.modules[name] = None
import jax
import numpy as np
import segjax
from segjax.eval.coco_ap import coco_scores
from segjax.models.variables import init_variables
from segjax.predict.files import predict_files
from segjax.zoo import hub
from segjax.zoo.export import export_file
from tests.support.toy import Toy

model = Toy()
variables = init_variables(model, jax.random.key(0))
data = segjax.DataConfig(resize="fit", size=(32, 32))
found = segjax.Predictor(model, variables, segjax.Classes(("a", "b", "c")), data)
print(len(found(np.zeros((20, 30, 3), np.uint8))) >= 0)
"""


def test_predicting_exporting_and_scoring_need_neither_tfds_nor_grain():
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "True\n"


def test_importing_segjax_starts_nothing():
    script = "import sys, segjax; print('jax' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"
