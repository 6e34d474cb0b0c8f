"""Threads that each compute a piece of work of their own, and so do not wait for one another."""

import concurrent.futures
import dataclasses
import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, eq=False)
class Workers:
    """A number of threads.

    Attributes:
        number: Of threads; one is the caller's own.
        unwanted: Set when an error has made all results useless; functions that take long look.
    """

    number: int = 1
    unwanted: threading.Event = dataclasses.field(default_factory=threading.Event)

    def finished(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Generator[tuple[Item, Result], None, None]:
        """(item, function(item)) of all items, each as soon as it is there.

        Items are taken in the caller's thread, one by one as they are computed, so that results do
        not pile up; where they end, what is running is finished. An error, in the function or the
        caller, ends all once the other threads are back.
        """
        try:
            if self.number == 1:
                for item in items:
                    yield item, function(item)
            else:
                yield from self._side_by_side(function, iter(items))
        except BaseException:
            self.unwanted.set()
            raise

    def _side_by_side(
        self, function: Callable[[Item], Result], items: Iterator[Item]
    ) -> Generator[tuple[Item, Result], None, None]:
        with concurrent.futures.ThreadPoolExecutor(self.number) as pool:
            try:
                chosen = itertools.islice(items, self.number)
                running = {pool.submit(function, item): item for item in chosen}
                while running:
                    done, _ = concurrent.futures.wait(running, return_when="FIRST_COMPLETED")
                    for future in done:
                        item, result = running.pop(future), future.result()
                        for new in itertools.islice(items, 1):
                            running[pool.submit(function, new)] = new
                        yield item, result
            except BaseException:
                self.unwanted.set()  # before the pool waits for the other threads
                raise
