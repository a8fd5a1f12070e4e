"""The loops of a computing group of specialised warps."""

from __future__ import annotations

from eintune.space.plan.pipelined_product import PipelinedProduct, pipelined_product
from eintune.space.plan.plan import Loop
from eintune.space.plan.values import Dot
from eintune.space.plan.warp_specialisation import sides

from .compute_printer import ComputePrinter
from .iterations import Iterations


class Compute(ComputePrinter):
    """What each group that computes does, on rows of its own."""

    def loop(self, loop: Loop) -> None:
        for c in loop.carries:
            self.write(f"{self.name(c.value)} = {self.full(c.value.axes, c.init, c.value.dtype)}")
        order = self.order(loop)
        if order is None:
            return
        pipelined = self._pipelined_of(loop)
        steps = Iterations(self, loop, order, pipelined, self.lazy.get(loop), self._place_of(loop))
        products = [v for v in loop.body.items if isinstance(v, Dot)]
        if pipelined is None:
            steps.rest()
            self.release_resident(products)
        else:
            in_time = [v for v in products if v is not pipelined.carry.next]
            always = self.runs_always(loop.whole())
            if not always:
                self.write(f"if {order.low} < {order.high}:")
            with self.nested(None, deeper=not always):
                steps.first()
                steps.rest()
                if always:
                    self.release_resident(in_time)
                steps.last()
            self.release_resident([pipelined.carry.next] if always else products)
        self.pass_on(loop, order)

    def _place_of(self, loop: Loop) -> str:
        """A number of a loop's reference and a group: where they note what one warp found."""
        several, number = len(self.lazy), list(self.lazy).index(loop) if loop in self.lazy else 0
        return "group" if several < 2 else f"{several} * group + {number}"

    def _pipelined_of(self, loop: Loop) -> PipelinedProduct | None:
        """What runs pipelined: a product of a computed operand and a tile, beside one other."""
        pipelined = pipelined_product(loop, casts=False)
        if pipelined is None or sum(isinstance(v, Dot) for v in loop.body.items) != 2:
            return None
        left, _ = sides(pipelined.product, self.row)
        return pipelined if left in pipelined.kept else None
