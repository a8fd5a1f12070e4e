"""Seed 001's configuration, to the byte, by the accounting that plans are priced with."""

from __future__ import annotations

import pytest
from small_plans import chained_products, schedule

from eintune.costmodel.counts.tile_cost import TileChoice, node_bytes, priced, transaction_table
from eintune.costmodel.counts.work import work
from eintune.space.tile_ir.extraction import cheapest
from eintune.space.tile_ir.from_plan import tile_terms
from eintune.space.tile_ir.graph import HOIST, LOAD, TileGraph, saturate_tiles
from eintune.space.tile_ir.text import read_tiles, two_products
from eintune.space.tile_ir.tiles import Region

G, S, R = Region.GLOBAL, Region.SHARED, Region.REGISTERS


def graph(store_each_iteration: bool, laws: str) -> TileGraph:
    return saturate_tiles(tile_terms(chained_products(store_each_iteration=store_each_iteration))["O"], laws=laws)


def best(graph: TileGraph) -> TileChoice:
    (choice,) = cheapest(graph, node_bytes(graph))
    return priced(graph, choice)


def test_stored_each_iteration_naive() -> None:
    naive = best(graph(True, laws=""))
    assert naive.paths == {(G, S): 278_528, (S, R): 393_216, (R, S): 262_144, (S, G): 262_144}
    assert naive.nbytes == 1_196_032


def test_stored_each_iteration_the_extractor_picks_the_rearranged_form() -> None:
    chosen = best(graph(True, laws=HOIST))
    assert chosen.paths == {(G, S): 278_528, (S, R): 278_528, (R, S): 262_144, (S, G): 262_144}
    assert chosen.nbytes == 1_081_344
    assert {"LDR", "Elementwise"} <= {n.op for n in chosen.nodes.values()}


@pytest.mark.parametrize(("op", "structures"), [("scale", 2), ("exp", 1)])
def test_an_operand_loaded_once_is_as_cheap_and_needs_no_linear_operation(op: str, structures: int) -> None:
    g = saturate_tiles(read_tiles(two_products().replace("scale", op)))
    chosen = [priced(g, c) for c in cheapest(g, node_bytes(g))]
    assert [c.nbytes for c in chosen] == [1_081_344] * structures
    for c in chosen:
        assert c.paths == {(G, S): 278_528, (S, R): 278_528, (R, S): 262_144, (S, G): 262_144}
    written = saturate_tiles(read_tiles(two_products().replace("scale", op)), laws="")
    assert best(written).nbytes == 1_196_032


@pytest.mark.parametrize(("laws", "nbytes"), [("", 737_280), (HOIST, 622_592), (LOAD, 622_592)])
def test_stored_once_after_the_loop(laws: str, nbytes: int) -> None:
    assert best(graph(False, laws)).nbytes == nbytes


@pytest.mark.parametrize("each", [True, False])
def test_a_plan_and_its_tile_term_move_the_same_bytes(each: bool) -> None:
    plan = chained_products(store_each_iteration=each)
    naive = best(graph(each, laws=""))
    traffic = work(plan, schedule()).traffic
    touches = {level: sum(n for path, n in naive.paths.items() if level in path) for level in Region}
    assert (traffic.l2_bytes, traffic.shared_bytes, traffic.register_bytes) == (touches[G], touches[S], touches[R])


def test_the_transaction_table_lists_every_class_and_the_total() -> None:
    g = graph(True, laws=HOIST)
    choice = best(g)
    table = transaction_table(g, choice)
    assert len(table.splitlines()) == len(choice.nodes) + 2
    assert table.splitlines()[-1].split() == ["total", "1,081,344"]
