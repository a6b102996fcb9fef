"""How a training ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingResult:
    """``ending`` is "finished", "stopped early", "interrupted" or "not finite".

    ``loss`` is the last mean that was logged, ``validation_loss`` the lowest held-out loss, at ``best_step``; ``kept``
    says which weights the model was left with: "last", "average" (of the EMA) or "best".
    """

    step: int
    max_steps: int
    ending: str
    kept: str
    seconds: float
    loss: float | None = None
    validation_loss: float | None = None
    best_step: int | None = None
    message: str = ""

    def status(self) -> str:
        """The result in a few words."""
        steps = f"{self.step} of {self.max_steps} steps" if self.step < self.max_steps else f"{self.step} steps"
        note = "" if self.ending == "finished" else f": {self.ending}"
        kept = {"best": f", the best weights, of step {self.best_step}", "average": ", averaged weights"}
        return steps + note + kept.get(self.kept, "")
