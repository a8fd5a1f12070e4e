"""The tile IR: analyses, the hoist, its guards, terms from plans, extraction, drawing."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from small_plans import chained_products

from eintune.space.pictures.svg import CHOSEN, LEFT
from eintune.space.pictures.tiles import tile_dot
from eintune.space.plan.bounds import Greatest, Last, Lit
from eintune.space.plan.plan import Segment
from eintune.space.plan.values import Index, Store
from eintune.space.tile_ir.extraction import cheapest
from eintune.space.tile_ir.from_plan import tile_terms
from eintune.space.tile_ir.graph import HOIST, LOAD, saturate_tiles
from eintune.space.tile_ir.tiles import (
    Cast,
    Elementwise,
    Final,
    Input,
    Ldr,
    Lds,
    Region,
    Stg,
    Sts,
    TileError,
    TileExpr,
    TileFacts,
    Wgmma,
    facts,
)

Q = Lds(Input("Q", 128, 64, 2, 1))
K = Lds(Input("K", 64, 128, 2, 8))
V = Lds(Input("V", 128, 64, 2, 8))


def chain(op: str = "scale") -> TileExpr:
    return Wgmma(Elementwise(op, Wgmma(Q, K)), V)


def test_analyses_propagate_shape_width_region_and_iterations() -> None:
    assert facts(Q) == TileFacts(128, 64, 2, Region.SHARED, 1)
    assert facts(chain()) == TileFacts(128, 64, 4, Region.REGISTERS, 8)
    assert facts(Stg(Sts(Cast(2, Final(chain()))))) == TileFacts(128, 64, 2, Region.GLOBAL, 1)
    assert facts(Stg(Sts(chain()))).nbytes == 128 * 64 * 4


def test_the_graph_says_the_same_of_every_class_as_the_rules_on_terms() -> None:
    graph = saturate_tiles(Stg(Sts(chain())))
    assert graph.facts[graph.root] == facts(Stg(Sts(chain())))
    scaled = next(c for c, nodes in graph.classes.items() if len(nodes) == 2)
    assert graph.facts[scaled] == facts(Wgmma(Elementwise("scale", Ldr(Q)), K))


def test_a_left_operand_in_shared_memory_may_be_loaded_once() -> None:
    graph = saturate_tiles(Stg(Sts(chain("exp"))), laws=LOAD)
    (ways,) = [nodes for nodes in graph.classes.values() if len(nodes) > 1]
    assert [n.op for n in ways] == ["WGMMA", "WGMMA"]
    regions = {graph.facts[n.children[0]].region for n in ways}
    assert regions == {Region.SHARED, Region.REGISTERS}
    assert {graph.facts[n.children[1]].region for n in ways} == {Region.SHARED}


def test_the_hoist_adds_the_other_order_and_its_absence_does_not() -> None:
    both = saturate_tiles(Stg(Sts(chain())), laws=HOIST)
    assert sorted(n.op for nodes in both.classes.values() if len(nodes) > 1 for n in nodes) == ["Elementwise", "WGMMA"]
    assert "LDR" in {n.op for _, n in both.nodes}
    naive = saturate_tiles(Stg(Sts(chain())), laws="")
    assert all(len(nodes) == 1 for nodes in naive.classes.values())


def test_a_product_accumulates_in_the_width_that_it_says() -> None:
    term = Stg(Sts(Elementwise("scale", Wgmma(Q, K, 2))))
    graph = saturate_tiles(term, laws=HOIST)
    assert facts(term).element_bytes == graph.facts[graph.root].element_bytes == 2
    assert sorted(n.op for nodes in graph.classes.values() if len(nodes) > 1 for n in nodes) == ["Elementwise", "WGMMA"]


def test_an_operation_that_is_not_linear_is_not_hoisted() -> None:
    graph = saturate_tiles(Stg(Sts(chain("exp"))), laws=HOIST)
    assert all(len(nodes) == 1 for nodes in graph.classes.values())


def test_a_left_operand_in_registers_needs_no_load_to_be_scaled() -> None:
    graph = saturate_tiles(Stg(Sts(Elementwise("scale", Wgmma(Cast(2, Wgmma(Q, K)), V)))), laws=HOIST)
    assert any(len(nodes) == 2 for nodes in graph.classes.values())
    assert "LDR" not in {n.op for _, n in graph.nodes}


@pytest.mark.parametrize(
    ("term", "words"),
    [
        (Ldr(Input("Q", 1, 1, 2, 1)), "LDR: its operand must be in shared, but is in global"),
        (Wgmma(Q, V), "columns of the left operand must be rows of the right, but got 64 and 128"),
        (Wgmma(Q, Ldr(K)), "the right in shared memory"),
        (Elementwise("scale", Q), "Elementwise scale: its operand must be in registers"),
    ],
)
def test_terms_without_meaning_are_refused(term: TileExpr, words: str) -> None:
    with pytest.raises(TileError, match=words):
        saturate_tiles(term)


def test_where_the_store_stands_comes_from_the_plan() -> None:
    assert tile_terms(chained_products(store_each_iteration=True)) == {"O": Stg(Sts(chain()))}
    assert tile_terms(chained_products(store_each_iteration=False)) == {"O": Stg(Sts(Final(chain())))}


def test_plans_beyond_the_tile_ir_are_refused_with_the_operation() -> None:
    plan = chained_products(store_each_iteration=False)
    row = Index(rank="p", axes=("p",), dtype="int32", name="row")
    plan.root.items[-1] = Store(tensor="O", index=("p",), args=(row,), axes=("p",), dtype="int32", name="store")
    plan.root.items.insert(0, row)
    with pytest.raises(TileError, match="no operation iota"):
        tile_terms(plan)


def test_bounds_that_vary_are_refused() -> None:
    plan = chained_products(store_each_iteration=False)
    (loop,) = plan.loops()
    loop.segments = (Segment(Lit(0), Greatest((Last("p"), Lit(1))), frozenset()),)
    with pytest.raises(TileError, match="constant loop bounds"):
        tile_terms(plan)


def test_all_optimal_choices_are_listed_once() -> None:
    graph = saturate_tiles(Stg(Sts(chain())), laws=HOIST)
    free = dict.fromkeys(graph.nodes, 0.0)
    choices = cheapest(graph, free)
    assert len(choices) == 2
    assert len({tuple(sorted(c.items(), key=str)) for c in choices}) == 2
    dear = {key: float(key[1].op == "LDR") for key in graph.nodes}
    (only,) = cheapest(graph, dear)
    assert "LDR" not in {n.op for n in only.values()}


def test_the_graph_is_drawn_plain_and_with_costs() -> None:
    graph = saturate_tiles(Stg(Sts(chain())), laws=HOIST)
    plain = tile_dot(graph)
    assert plain.count("[label=") == len(graph.classes)
    assert plain.count("->") == len({(c, k) for c, n in graph.nodes for k in n.children})
    assert CHOSEN not in plain
    cost = {key: 1234.0 * (key[1].op == "WGMMA") for key in graph.nodes}
    (choice,) = cheapest(graph, {key: float(key[1].op == "LDR") for key in graph.nodes})
    priced = tile_dot(graph, cost, choice)
    rows = re.findall(r'BGCOLOR="([^"]+)">(?:WGMMA|Input|Elementwise|LD|ST)', priced)
    assert rows.count(CHOSEN) == len(choice)
    assert rows.count(LEFT) == len(graph.nodes) - len(choice)
    assert priced.count("1,234 B") == 3


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's dot is not installed")
def test_the_picture_is_valid_dot() -> None:
    text = tile_dot(saturate_tiles(Stg(Sts(chain())), laws=HOIST))
    made = subprocess.run(["dot", "-Tsvg"], input=text, capture_output=True, text=True, check=True)
    assert "<svg" in made.stdout
    assert "WGMMA" in made.stdout
