"""Public names and the modules that define them."""

from .loop import TrainResults as TrainResults
from .loop import train as train
from .runs import Run as Run
from .runs import load_run as load_run
from .runs import save_run as save_run
