"""One arm of a study: a method on a task, and what to tune.

Source: tuning every method's learning rate before comparing is what Lialin et al. 2023, section 12, ask for.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from peft_lessons.methods import Adapter, Method
from peft_lessons.tasks import Task, load_task
from peft_lessons.training import Loss


@dataclass(frozen=True)
class Arm:
    """One method on one task: what is tuned and then tested.

    `prepare`, for methods that look at the data before they are attached, is called as prepare(model, task, lr, seed)
    with the plain base and gives what is attached; `method` then is only what it is known by. `quantize` is the code
    that the base is rounded to before; `after`, called as after(model, task) with the trained model when it has been
    tested, gives more fields of the run and leaves the model as it was.
    """

    label: str
    base: str
    task: str
    method: Method
    rates: tuple[float, ...]
    steps: int
    random_init: bool = False
    fixed_rate_of: str | None = None  # take another arm's learning rate instead of tuning
    prepare: Callable[[nn.Module, Task, float, int], Method | Adapter] | None = None
    quantize: str | None = None
    after: Callable[[nn.Module, Task], dict[str, float]] | None = None
    load: Callable[[int], Task] | None = None
    loss: Loss | None = None
    batch_size: int = 16

    def load_task(self, seed: int) -> Task:
        """The task that a run of this seed is trained and measured on."""
        return self.load(seed) if self.load else load_task(self.task)
