"""Extraction: from the e-graph, the forms that really differ, cheapest first, by integer programming.

A binary variable a node, a continuous one a class, a level a class and stream (passes are not a sum over
nodes), an order only inside strongly connected components, and one binary a trait. After each answer a cut
forbids every form with the same layout that does all that the answer does (and perhaps more): such a form is
the same or is dominated, as answers come in order of passes and work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulp

from eintune.space.cascade.traits import Stream, Trait, levels, traits
from eintune.space.egraph.graph import ClassId, EGraph, Node
from eintune.space.ir.expr import Expr, Fold, Rank, Reduce

from .layouts import Layout, layouts
from .nominal_cost import WORK_LIMIT, NominalCost
from .pruning import pruned
from .solver import ExtractionError, solve, solver

PASS_WEIGHT = 64.0
"""Work of one more pass, in units of the definition's whole work: a form with fewer passes comes first."""
LARGE = 150
"""Nodes, times streams, above which each layout gets a program of its own."""
PATIENCE = 5.0
"""Seconds by the clock that the solver gets for a second of processor time: it knows no other limit."""


@dataclass(frozen=True)
class Form:
    """One answer: a node for each class that is needed, the passes over each stream, its traits and its work
    (1.0 is the definition's)."""

    choice: Mapping[ClassId, Node]
    passes: Mapping[Rank, int]
    traits: frozenset[Trait]
    work: float


class OutOfTime(ExtractionError):
    """There may be more forms: the time was over before the solver had proven otherwise."""


class ExtractionProblem:
    """The integer program of one pruned graph; `solve` gives the best form, `forbid` cuts it and what it dominates."""

    def __init__(self, graph: EGraph, streams: Sequence[Stream], passes_: int | None = None) -> None:
        """passes_: what forms take over all streams together, where that is known."""
        self.graph, self.streams = graph, tuple(streams)
        self.work = NominalCost(graph, streams)
        # Work in units of the definition's, so that coefficients are of the order of 1 whatever the sizes: solvers
        # decide what is an integer by an absolute tolerance.
        self.scale = 1.0 / self.work.definition()
        self.model = pulp.LpProblem("forms", pulp.LpMinimize)
        # x: the node is chosen. y: the class is computed; no integer is asked of it, as it is a sum of x.
        self.node = {(c, n): self.model.add_variable(f"x{i}", cat="Binary") for i, (c, n) in enumerate(graph.nodes())}
        self.used = {c: self.model.add_variable(f"y{i}", 0, 1) for i, c in enumerate(graph.classes)}
        self.trait: dict[Trait, Any] = {}
        total = pulp.lpSum(self.work(c, n) * self.scale * x for (c, n), x in self.node.items())
        self.fewest, self.most = 0, 0
        self.counts = [self._levels(i, s, passes_) for i, s in enumerate(self.streams)]
        # Where the number is known nothing has to be proven about any other.
        if passes_ is not None:
            self.fewest = self.most = passes_
        self.passes = self.model.add_variable("passes", 0, self.most, cat="Integer")
        self.model += pulp.lpSum(self.counts) == self.passes
        # Lexicographic by weight: one pass counts for more than all the work that `WORK_LIMIT` allows. A pass is
        # another read of the stream from memory, which no saving of arithmetic makes up for.
        self.model += PASS_WEIGHT * self.passes + total
        # Forms that recompute without end are in the graph too; they would be answers, once all others are cut.
        self.model += total <= WORK_LIMIT
        self._choices()
        self._order()
        self._traits()
        self._one_tiling()

    def _choices(self) -> None:
        for r in self.graph.roots:
            self.model += self.used[r] == 1
        # A class that is computed is computed by exactly one node, once for all that read it: common subexpressions
        # are shared, which is why this is no problem for a greedy or a tree-wise extraction.
        for c, nodes in self.graph.classes.items():
            self.model += pulp.lpSum(self.node[c, n] for n in nodes) == self.used[c]
            users: dict[ClassId, list[Node]] = {}
            for n in nodes:
                for k in dict.fromkeys(n.children):
                    users.setdefault(k, []).append(n)
            # Of the nodes of one class that read k at most one is chosen, so their sum is bounded and not only each
            # of them: the relaxation is tighter, and there are fewer rows.
            for k, ns in users.items():
                self.model += pulp.lpSum(self.node[c, n] for n in ns) <= self.used[k]
        # nothing is used that no one asks for: an idle node could pretend to a trait
        asked: dict[ClassId, list[Any]] = {c: [] for c in self.graph.classes}
        for (_, n), x in self.node.items():
            for k in dict.fromkeys(n.children):
                asked[k].append(x)
        for k, xs in asked.items():
            if k not in self.graph.roots:
                self.model += self.used[k] <= pulp.lpSum(xs)

    def _levels(self, i: int, s: Stream, of: int | None) -> Any:
        """The passes over one stream, at most the definition's: levels rise by one at each chosen barrier. of: those
        over all streams together."""
        # The definition is one answer, and answers with more passes than it are not wanted.
        most = levels([x for x, c in self.graph.defined.items() if c in self.graph.roots], s)
        if any(isinstance(x, Fold) and s.role(x.rank) for x in self.graph.defined):
            most += 2  # a fold may be written out: a reference, weights, and what divides by their sum
        if of is not None:
            most = min(most, of)
        level = _Levels(self, f"l{i}", s, most)
        count = self.model.add_variable(f"p{i}", 0, most, cat="Integer")
        self.fewest += max(level.least[r] + int(s.element(self.graph.free[r])) for r in self.graph.roots)
        self.most += most
        for r in self.graph.roots:
            # Levels as indicators sum up to the level. An output that varies with the stream has to be written in a
            # pass of its own after the last barrier.
            reached = pulp.lpSum(level.at_least(r, t) for t in range(1, most + 1))
            self.model += count >= reached + int(s.element(self.graph.free[r]))
        return count

    def _order(self) -> None:
        """No cycles: an order inside each strongly connected component (there are none across them)."""
        # An e-graph has circles (x = x * 1), and a choice must not: no class may be computed from itself. Miller,
        # Tucker and Zemlin's orders forbid that, but their large constants make weak relaxations, so they stand only
        # where a circle is possible at all.
        component = components(self.graph)
        size: dict[int, int] = {}
        for c in component:
            size[component[c]] = size.get(component[c], 0) + 1
        place = {
            c: self.model.add_variable(f"o{i}", 0, size[component[c]])
            for i, c in enumerate(self.graph.classes)
            if size[component[c]] > 1
        }
        for (c, n), x in self.node.items():
            for k in dict.fromkeys(n.children):
                if component[c] == component[k]:
                    count = size[component[c]]
                    # If the node is chosen its class comes after its operand; if not, the constraint holds whatever
                    # the places are.
                    self.model += place[c] - place[k] >= 1 - (count + 1) * (1 - x)

    def _traits(self) -> None:
        shown: dict[Trait, list[Any]] = {}
        for (c, n), x in self.node.items():
            # A trait is shown if and only if one of its nodes is chosen: both directions, since cuts speak of traits
            # that are absent as well.
            for t in set(traits(n.head, self.graph.free[c], self.work.below(n), self.streams)):
                shown.setdefault(t, []).append(x)
        for i, t in enumerate(sorted(shown)):
            z = self.trait[t] = self.model.add_variable(f"z{i}", cat="Binary")
            self.model += z <= pulp.lpSum(shown[t])
            for x in shown[t]:
                self.model += z >= x

    def _one_tiling(self) -> None:
        """A form goes over a stream whole or in tiles, not both."""
        for s in self.streams:
            whole = [z for t, z in self.trait.items() if t.stream == s.rank and t.work and t.where == "whole"]
            tiled = self.trait.get(Trait("tiled", "", "", s.rank))
            if tiled is not None:
                # Otherwise half of the reductions could go over the stream whole and half in tiles: two loops, where
                # each reading would be one.
                for z in whole:
                    self.model += z + tiled <= 1

    def show(self, wanted: Iterable[Trait]) -> bool:
        """Have every form show these traits; whether there is a node for each."""
        if not all(t in self.trait for t in wanted):
            return False
        for t in wanted:
            self.model += self.trait[t] == 1
        return True

    def solve(self, seconds: float) -> Form | None:
        """The best form that no cut forbids; None if there is none. Raises OutOfTime if none was proven the best.

        Of as few passes as there may be, then of one more, and so on: that there is none is proven at once, and among
        forms of as many passes the best is found in a quarter of the time.
        """
        end = time.monotonic() + seconds
        while self.fewest <= self.most:
            self.passes.lowBound = self.passes.upBound = self.fewest
            match solve(self.model, solver(end - time.monotonic())):
                case "infeasible":
                    self.fewest += 1
                case "unproven":
                    raise OutOfTime(f"a form must be proven the best within {seconds:.3g} s")
                case "optimal":
                    return self._form()
        return None

    def _form(self) -> Form:
        """What the solver found."""
        # A solver's integers are floats within its tolerance.
        picked = {c: n for (c, n), x in self.node.items() if (x.value() or 0) > 0.5}
        # Passes, traits and work are counted anew on what the roots need: an answer may carry more than that where
        # the constraints leave it free.
        choice = _needed(picked, self.graph.roots)
        found: set[Trait] = set()
        for c, n in choice.items():
            found.update(traits(n.head, self.graph.free[c], self.work.below(n), self.streams))
        counts = {s.rank: _passes(choice, self.graph, s) for s in self.streams}
        work = sum(self.work(c, n) for c, n in choice.items()) * self.scale
        return Form(choice, counts, frozenset(found), work)

    def forbid(self, form: Form) -> None:
        """Cut the form, and those that it dominates: of its layout, doing as much or more in no fewer passes;
        and of its folds and reductions, with divisions moved into the loop."""
        # "No good" cuts, generalised by dominance: at least one trait of the form must go, or one that is not work
        # must come. A form that shows the same and more reductions besides is no other way of computing.
        self._cut(form, more=lambda t: t.work, free=lambda t: False)
        # Moving divisions into the loop from after it does the same with more of them.
        if not any(t.kind == "division" and t.where == "inside" for t in form.traits):
            self._cut(form, more=lambda t: False, free=lambda t: t.kind == "division")
        self.model += pulp.lpSum(self.counts) >= sum(form.passes.values())  # answers come in that order

    def _cut(self, form: Form, more: Callable[[Trait], bool], free: Callable[[Trait], bool]) -> None:
        """Forbid every form with these traits; it may have `more` besides, and `free` ones do not count."""
        # In the variables: sum of (1 - z) over traits that the form has, and of z over those that it has not.
        on = [1 - z for t, z in self.trait.items() if t in form.traits and not free(t)]
        off = [z for t, z in self.trait.items() if t not in form.traits and not more(t) and not free(t)]
        self.model += pulp.lpSum(on + off) >= 1


class _Levels:
    """Which classes stand at or above which level of one stream, as variables between 0 and 1.

    A variable a class and level is tighter than one level a class: no large constant stands in a constraint.
    """

    def __init__(self, problem: ExtractionProblem, name: str, s: Stream, most: int) -> None:
        self.problem, self.name, self.most = problem, name, most
        # Fixed points from above and below say within which levels a class can stand at all. Most can stand at one
        # only, and need no variable.
        self.step = {n: int(_is_barrier(n.head, s)) for _, n in problem.graph.nodes()}
        self.least = _levels(problem.graph, self.step, min)
        self.highest = _levels(problem.graph, self.step, max)
        self.variables: dict[tuple[ClassId, int], Any] = {}
        for c, nodes in problem.graph.classes.items():
            for t in range(self.least[c] + 1, min(self.highest[c], most + 1) + 1):
                self._rise(c, nodes, t)

    def at_least(self, c: ClassId, t: int) -> Any:
        """Whether the class stands at level `t` or above: a number where it is known, else a variable."""
        if t <= self.least[c] or t > min(self.highest[c], self.most):
            return int(t <= self.least[c])
        if (c, t) not in self.variables:
            name = f"{self.name}_{len(self.variables)}"
            self.variables[c, t] = self.problem.model.add_variable(name, 0, 1)
        return self.variables[c, t]

    def _rise(self, c: ClassId, nodes: Sequence[Node], t: int) -> None:
        """What lifts the class to level `t`: the choice of some nodes alone, of others with what is below them."""
        alone: list[Any] = []
        together: dict[tuple[ClassId, int], list[Any]] = {}
        for n in nodes:
            below = t - self.step[n]
            x = self.problem.node[c, n]
            # An operand stands that high whichever way it is computed.
            if any(self.least[k] >= below for k in n.children):
                alone.append(x)
                continue
            for k in dict.fromkeys(n.children):
                if self.highest[k] >= below:
                    together.setdefault((k, below), []).append(x)
        reached, chosen = self.at_least(c, t), pulp.lpSum(alone)
        # The class is at level t if a node is chosen that is there by itself, or one whose operand is at the level
        # below (by one, where the node is a barrier). Summed over nodes with the same operand: at most one of them is
        # chosen.
        self.problem.model += reached >= chosen
        for (k, below), xs in together.items():
            self.problem.model += reached + 1 >= chosen + pulp.lpSum(xs) + self.at_least(k, below)


def forms(graph: EGraph, streams: Sequence[Stream], seconds: float = 20.0) -> Iterator[Form]:
    """Forms in order of passes, then work (in large graphs as `layouts` knows it).

    Each differs in traits from all before it and is not dominated.

    Ends when there are no more. Raises OutOfTime after `seconds` of this process's own time, so that what is found
    does not depend on what else the machine does.
    """
    if not all(graph.classes.get(r) for r in graph.roots):
        return
    clock = _Clock(seconds, time.process_time())
    # Solving grows steeply with the nodes, and most of them are other spellings of the same: they go first.
    lean = pruned(graph, streams)
    large = sum(map(len, lean.classes.values())) * len(streams) > LARGE
    known = layouts(lean, streams) if streams and large else None
    # In a large graph each cut makes the next program harder. The list of layouts turns that into many programs that
    # are restricted to few nodes each.
    yield from _cut_one_by_one(lean, streams, clock) if known is None else _by_layout(lean, streams, known, clock)


@dataclass(frozen=True)
class _Clock:
    """So many seconds of this process's time from its start."""

    seconds: float
    start: float

    def left(self) -> float:
        """For one program, by the clock. Raises OutOfTime where nothing is left."""
        if (left := self.start + self.seconds - time.process_time()) <= 0:
            raise OutOfTime(f"all forms must be found within {self.seconds:g} s")
        return left * PATIENCE


def _cut_one_by_one(lean: EGraph, streams: Sequence[Stream], clock: _Clock) -> Iterator[Form]:
    """The best of all, cut with what it dominates, and so on: one program for the whole graph."""
    problem = ExtractionProblem(lean, streams)
    while form := problem.solve(clock.left()):
        yield form
        if not form.traits:
            return
        problem.forbid(form)


def _by_layout(lean: EGraph, streams: Sequence[Stream], known: Sequence[Layout], clock: _Clock) -> Iterator[Form]:
    """The best of each layout by a program over the nodes that show nothing else: many small ones in place of few
    large ones."""
    given: list[Form] = []
    for layout in known:
        # What `forbid` says in constraints, said of the list.
        if any(_forbids(f, layout.traits) for f in given):
            continue
        if form := _best_of(lean, streams, layout, clock.left()):
            given.append(form)
            yield form


def _best_of(lean: EGraph, streams: Sequence[Stream], layout: Layout, seconds: float) -> Form | None:
    """The best form that shows these traits and no others."""

    def fits(c: ClassId, n: Node) -> bool:
        return layout.traits.issuperset(traits(n.head, lean.free[c], [lean.free[k] for k in n.children], streams))

    narrow = lean.restrict({c: tuple(n for n in ns if fits(c, n)) for c, ns in lean.classes.items()})
    if not all(narrow.classes.get(r) for r in narrow.roots):
        return None
    narrow = pruned(narrow, streams)  # of what shows nothing else more is the same
    # of as few passes as any tree has there is one nearly always, and it is sooner found than among all
    for known in (layout.passes, None):
        problem = ExtractionProblem(narrow, streams, known)
        if not problem.show(layout.traits):
            return None
        if form := problem.solve(seconds):
            return form
    return None


def _forbids(form: Form, other: frozenset[Trait]) -> bool:
    """Whether a form that came before makes one with these traits needless: one of its layout, doing as much or more;
    or of its folds and reductions, with divisions moved into the loop."""
    if form.traits <= other and all(t.work for t in other - form.traits):
        return True
    if any(t.kind == "division" and t.where == "inside" for t in form.traits):
        return False
    return _undivided(form.traits) == _undivided(other)


def _undivided(shown: frozenset[Trait]) -> frozenset[Trait]:
    return frozenset(t for t in shown if t.kind != "division")


def _levels(graph: EGraph, step: Mapping[Node, int], choose: Callable[[int, int], int]) -> dict[ClassId, int]:
    """The barriers below each class in the form that has the fewest (`min`) or the most (`max`)."""
    # The fewest fall from too many, the most rise from 0; on a circle through a barrier the latter would rise for
    # ever, so both end at the number of classes.
    least = choose(0, 1) == 0
    bound = len(graph.classes)
    found = dict.fromkeys(graph.classes, bound if least else 0)
    changed = True
    while changed:
        changed = False
        for c, n in graph.nodes():
            level = min(max((found[k] for k in n.children), default=0) + step[n], bound)
            if choose(level, found[c]) != found[c]:
                found[c], changed = level, True
    return found


def _is_barrier(x: Expr, s: Stream) -> bool:
    return isinstance(x, (Reduce, Fold)) and s.barrier(x.rank)


def _needed(picked: Mapping[ClassId, Node], roots: Iterable[ClassId]) -> dict[ClassId, Node]:
    needed: dict[ClassId, Node] = {}
    stack = list(roots)
    while stack:
        c = stack.pop()
        if c not in needed:
            needed[c] = picked[c]
            stack += picked[c].children
    return needed


def _passes(choice: Mapping[ClassId, Node], graph: EGraph, s: Stream) -> int:
    level: dict[ClassId, int] = {}
    stack = list(graph.roots)
    while stack:
        n = choice[stack[-1]]
        # Recursion would overflow Python's stack on deep definitions; operands are put on an explicit one instead.
        if unknown := [k for k in n.children if k not in level]:
            stack += unknown
            continue
        c = stack.pop()
        level[c] = max((level[k] for k in n.children), default=0) + int(_is_barrier(n.head, s))
    return max(level[r] + int(s.element(graph.free[r])) for r in graph.roots)


def components(graph: EGraph) -> dict[ClassId, int]:
    """The strongly connected component of each class (Tarjan's algorithm, without recursion)."""
    index: dict[ClassId, int] = {}
    low: dict[ClassId, int] = {}
    found: dict[ClassId, int] = {}
    stack: list[ClassId] = []
    for start in graph.classes:
        work: list[tuple[ClassId, Iterator[ClassId]]] = []

        def enter(c: ClassId, work: list[tuple[ClassId, Iterator[ClassId]]] = work) -> None:
            index[c] = low[c] = len(index)
            stack.append(c)
            work.append((c, iter([k for n in graph.classes[c] for k in n.children])))

        if start not in index:
            enter(start)
        while work:
            c, rest = work[-1]
            k = next(rest, None)
            if k is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[c])
                if low[c] == index[c]:
                    while True:
                        top = stack.pop()
                        found[top] = index[c]
                        if top == c:
                            break
            elif k not in index:
                enter(k)
            elif k not in found:
                low[c] = min(low[c], index[k])
    return found
