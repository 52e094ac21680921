"""A model that is called in the process that was asked, on its event loop."""

import asyncio

import numpy as np

from weighbridge.application.ports import Model
from weighbridge.application.queue import LOOKS
from weighbridge.domain.batch import Batch, Outputs, Rows
from weighbridge.domain.errors import FeatureTooLarge
from weighbridge.domain.signature import Signature


class Inline:
    """Calls a model here and now; more than `slice_rows` rows in slices, before each of which the event loop reads.

    A slice is to hold the loop for a few milliseconds at most. Rows must get the same outputs alone and together.
    """

    def __init__(self, model: Model, slice_rows: int) -> None:
        self.signature: Signature = model.signature
        self._model = model
        self._slice_rows = slice_rows

    def ask(self, rows: Rows) -> "Outputs | asyncio.Future[Outputs]":
        """The outputs. Raises FeatureTooLarge, or whatever the model does."""
        if len(rows) <= self._slice_rows:
            return self._model.predict(Batch(self.signature, rows))
        return asyncio.ensure_future(self._in_slices(rows))

    async def _in_slices(self, rows: Rows) -> Outputs:
        parts: list[Outputs] = []
        for start in range(0, len(rows), self._slice_rows):
            for _ in range(LOOKS):  # before the first one, too: whoever cannot wait for outputs takes the rows back
                await asyncio.sleep(0)
            part = rows[start : start + self._slice_rows]
            try:
                parts.append(self._model.predict(Batch(self.signature, part)))
            except FeatureTooLarge as exc:
                raise FeatureTooLarge(most=exc.most, column=exc.column, row=start + (exc.row or 0)) from exc
        return tuple(map(np.concatenate, zip(*parts, strict=True)))
