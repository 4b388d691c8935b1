"""Small saga programs as data: Hypothesis makes them, one saga interprets them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from hypothesis import strategies as st
from pydantic import BaseModel, Field

from amends import Activity, App, Retry, Saga, SagaContext, activity, activity_context, saga
from amends.errors import Failure
from tests.integration.sagas.support import Broken, Refused

TIMEOUT_S = 50.0

What = Literal["done", "refused", "unknown", "flaky", "broken"]


class Act(BaseModel):
    """One step: what comes of it, after how long, and whether it can be undone."""

    kind: Literal["act"] = "act"
    what: What = "done"
    seconds: int = 0
    undoable: bool = True


class Sleep(BaseModel):
    """A timer."""

    kind: Literal["sleep"] = "sleep"
    seconds: int


class Block(BaseModel):
    """Several things: one after the other, or side by side in one of three ways."""

    kind: Literal["block"] = "block"
    how: Literal["in turn", "gather", "group", "wait"]
    parts: list[Node]


class Guarded(BaseModel):
    """A thing whose failure is handled, by another thing."""

    kind: Literal["guarded"] = "guarded"
    part: Node
    instead: Node


class Limited(BaseModel):
    """A thing that is given up after some time."""

    kind: Literal["limited"] = "limited"
    part: Node
    seconds: int


Node = Annotated[Act | Sleep | Block | Guarded | Limited, Field(discriminator="kind")]
for model in (Block, Guarded, Limited):
    model.model_rebuild()


class Program(BaseModel):
    """What the interpreting saga takes."""

    root: Node


class Books:
    """What the outside saw: effects that happened, and undos, by the key of their step."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.undone: list[tuple[str, str | None]] = []

    async def act(self, act: Act) -> str:
        """The effect, once its time has come."""
        context = activity_context()
        await asyncio.sleep(10 * TIMEOUT_S if act.what == "unknown" else act.seconds)
        if act.what == "refused":
            raise Refused("no")
        if act.what == "broken" or (act.what == "flaky" and context.attempt == 1):
            raise Broken("cable")
        self.happened.append(context.idempotency_key)
        return context.idempotency_key

    def undo(self, result: str | None) -> None:
        """The undo of the step that the running attempt names."""
        self.undone.append((activity_context().origin_key or "", result))


def interpreter(
    books: Books, compensate: Literal["in_reverse", "in_parallel"]
) -> tuple[Saga[Program, int], App]:
    """The saga "program", over two activities that write into the books."""
    retry = Retry(max_attempts=2, initial_s=3, jitter=0)

    @activity(name="act", retry=retry, timeout=TIMEOUT_S)
    async def undoable(act: Act) -> str:
        return await books.act(act)

    @undoable.undo(name="undo")
    async def undo(act: Act, result: str | None) -> None:
        books.undo(result)

    @activity(name="bare", retry=retry, timeout=TIMEOUT_S)
    async def bare(act: Act) -> str:
        return await books.act(act)

    @saga(name="program", compensate=compensate)
    async def program(ctx: SagaContext, program: Program) -> int:
        return await _run(ctx, program.root, undoable, bare)

    return program, App(sagas=[program], activities=[undoable, bare])


async def _run(ctx: SagaContext, node: Node, *acts: Activity[Act, str]) -> int:
    """Interpret a node; the sum of what it did."""
    if isinstance(node, Act):
        await ctx.do(acts[0] if node.undoable else acts[1], node)
        return 1
    if isinstance(node, Sleep):
        await asyncio.sleep(node.seconds)
        return 0
    if isinstance(node, Guarded):
        try:
            return await _run(ctx, node.part, *acts)
        except* Failure:
            pass
        return await _run(ctx, node.instead, *acts)
    if isinstance(node, Limited):
        try:
            async with asyncio.timeout(node.seconds):
                return await _run(ctx, node.part, *acts)
        except TimeoutError:
            return 0
    return await _run_block(ctx, node, *acts)


async def _run_block(ctx: SagaContext, node: Block, *acts: Activity[Act, str]) -> int:
    if node.how == "in turn":
        return sum([await _run(ctx, part, *acts) for part in node.parts])
    if node.how == "gather":
        return sum(await asyncio.gather(*(_run(ctx, part, *acts) for part in node.parts)))
    if node.how == "group":
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_run(ctx, part, *acts)) for part in node.parts]
        return sum(task.result() for task in tasks)
    pending = {asyncio.create_task(_run(ctx, part, *acts)) for part in node.parts}
    total = 0
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:  # amends: deterministic
            total += await task
    return total


def _blocks(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    short = st.integers(min_value=1, max_value=30)
    return st.one_of(
        st.builds(
            Block,
            how=st.sampled_from(["in turn", "gather", "group", "wait"]),
            parts=st.lists(nodes, min_size=1, max_size=4),
        ),
        st.builds(Guarded, part=nodes, instead=nodes),
        st.builds(Limited, part=nodes, seconds=short),
    )


def programs() -> st.SearchStrategy[Program]:
    """Programs of some depth, mostly of steps that are done."""
    outcomes: list[What] = ["done", "done", "done", "flaky", "refused", "unknown", "broken"]
    acts = st.builds(
        Act,
        what=st.sampled_from(outcomes),
        seconds=st.integers(min_value=0, max_value=20),
        undoable=st.sampled_from([True, True, False]),
    )
    sleeps = st.builds(Sleep, seconds=st.integers(min_value=0, max_value=30))
    nodes: st.SearchStrategy[Node] = st.recursive(acts | sleeps, _blocks, max_leaves=12)
    return st.builds(Program, root=nodes)
