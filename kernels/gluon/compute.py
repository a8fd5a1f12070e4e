"""The loops of a computing group of specialised warps."""

from __future__ import annotations

from eintune.space.plan.pipelined_product import PipelinedProduct, pipelined_product
from eintune.space.plan.plan import Loop
from eintune.space.plan.values import Dot
from eintune.space.plan.warp_specialisation import sides

from .compute_printer import ComputePrinter
from .iterations import Iterations


class Compute(ComputePrinter):
    """Prints what each computing group does on its 64 rows: the plan, with the loops as `iterations` has them."""

    def loop(self, loop: Loop) -> None:
        for c in loop.carries:
            self.write(f"{self.name(c.value)} = {self.full(c.value.axes, c.init, c.value.dtype)}")
        # Carries come before the question whether there is a loop at all: what follows it reads them in any case.
        order = self.order(loop)
        if order is None:
            return
        pipelined = self._pipelined_of(loop)
        steps = Iterations(self, loop, order, pipelined, self.lazy.get(loop), self._place_of(loop))
        products = [v for v in loop.body.items if isinstance(v, Dot)]
        if pipelined is None:
            # Nothing is left running after the last iteration, so what stays can be given back right away.
            steps.rest()
            self.release_resident(products)
        else:
            in_time = [v for v in products if v is not pipelined.carry.next]
            always = self.runs_always(loop.whole())
            # The first and the last iteration are printed apart from the loop; a program whose loop is empty must do
            # neither, or it would wait for tiles that no loader copies.
            if not always:
                self.write(f"if {order.low} < {order.high}:")
            with self.nested(None, deeper=not always):
                # The first product has no elementwise work to hide behind. From the second iteration on, the matrix
                # unit is given the product of the tile before while this tile's weights are computed.
                steps.first()
                steps.rest()
                # Only the product in time reads the tile that stays (the queries): it goes back before the last
                # pipelined product, so that the next program's is copied meanwhile.
                if always:
                    self.release_resident(in_time)
                steps.last()
            # Outside the condition, since it must happen once a program whatever the loop did: the loader has filled
            # the buffer and will wait for this arrival before it fills it again.
            self.release_resident([pipelined.carry.next] if always else products)
        self.pass_on(loop, order)

    def _place_of(self, loop: Loop) -> str:
        """A number that tells a loop and a group from all others: it names the register in which a warp notes that the
        reference of the loop does not serve."""
        several, number = len(self.lazy), list(self.lazy).index(loop) if loop in self.lazy else 0
        return "group" if several < 2 else f"{several} * group + {number}"

    def _pipelined_of(self, loop: Loop) -> PipelinedProduct | None:
        """The pipelined product of a loop; None unless the loop has two products, and the left operand of the later one
        is computed and kept for an iteration."""
        pipelined = pipelined_product(loop, casts=False)
        # With exactly two products there are never more than two in flight, so "all but the youngest are done"
        # (`warpgroup_mma_wait(1)`) means the one in time.
        if pipelined is None or sum(isinstance(v, Dot) for v in loop.body.items) != 2:
            return None
        # A left operand that is loaded would lie in a buffer of the ring an iteration longer than the loader knows
        # of.
        left, _ = sides(pipelined.product, self.row)
        return pipelined if left in pipelined.kept else None
