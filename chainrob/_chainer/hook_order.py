"""An optimizer hook can ask to run before all others, in whatever order they were added."""

from __future__ import annotations

import functools
from typing import Any

from chainrob._chainer.mending import mends


@mends("chainer.optimizer")
def _optimizer(module: Any) -> None:
    # RobustGradient completes the gradients. A hook that runs before it, GradientClipping say, sees
    # zeros and does nothing, in silence.
    add_hook = module._Hookable.add_hook

    @functools.wraps(add_hook)
    def add_in_front(self: Any, hook: Any, name: str | None, timing: str) -> None:
        add_hook(self, hook, name, timing)
        if getattr(hook, "runs_first", False):
            for own_name, found in list(self._pre_update_hooks.items()):
                if found is hook:
                    self._pre_update_hooks.move_to_end(own_name, last=False)

    module._Hookable.add_hook = add_in_front
