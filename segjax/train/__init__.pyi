"""Public names and where they live."""

from .checkpoint import Run as Run
from .checkpoint import load_run as load_run
from .checkpoint import save_run as save_run
from .loop import TrainResults as TrainResults
from .loop import train as train
