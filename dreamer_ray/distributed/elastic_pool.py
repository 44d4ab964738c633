"""The replicas of a run, as the driver sees them: grows and shrinks, and replaces those that Ray does not start again.

driver --start, end, are you there?--> WorldModelReplica x M        driver --who is in the pool--> Board --> learners
"""

import itertools
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import ray
from ray import ObjectRef
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError, RayError

from dreamer_ray.distributed import Actor
from dreamer_ray.distributed.board import answer
from dreamer_ray.distributed.failures import in_a_line

log = logging.getLogger("dreamer_ray")

PAUSE, LONGEST_PAUSE = 5.0, 300.0
"""Seconds before another one takes the place of a replica that ended for good: twice the first after one, four times after two in a row."""
MOST_DOUBLINGS = 10


def _starts_again(error: RayError) -> bool:
    """Whether Ray starts the replica again that raised this. Errors of its constructor or of its runtime environment end it for good."""
    if isinstance(error, RayActorError) and error.preempted:  # raised while it starts on another node, too
        return not error.actor_init_failed
    return isinstance(error, (ActorUnavailableError, OutOfMemoryError))


@dataclass
class _Place:
    """One of the pool, with the replica in it."""

    number: int
    actor: Actor
    asked: ObjectRef
    """Whether the replica is there."""
    ended: int = 0
    """Replicas that ended for good here since one was there."""
    replace_at: float = math.inf

    def ask(self) -> None:
        """Once more."""
        self.asked = self.actor.__ray_ready__.remote()


class ElasticPool:
    """The replicas of a run, as many as are useful; the board says to the learners who they are.

    ``start`` is told the place of a replica, of which the last ones are the first to end, and its number; ``lost`` is called when one has
    ended for good.
    """

    def __init__(self, start: Callable[[int, int], Actor], board: Actor, count: int, lost: Callable[[], None]):
        self.start, self.board, self.lost = start, board, lost
        self.numbers = itertools.count()
        self.places: list[_Place] = []
        self.left: list[Actor] = []
        self.resize(count)

    @property
    def replicas(self) -> list[Actor]:
        """Those in the pool."""
        return [place.actor for place in self.places]

    def resize(self, count: int) -> None:
        """Starts replicas or lets the last ones go; a node that no replica needs is given back by the cluster's autoscaler."""
        started = [self._place(number) for number in range(len(self.places), count)]
        self.places, left = [*self.places[:count], *started], self.places[count:]
        answer(lambda: self.board.enlist.remote(self.replicas))
        self.left += [place.actor for place in left]

    def look(self) -> None:
        """To be called now and then: ends who has left the pool, and replaces those that have ended for good.

        Who left has lived on since the look before, so that learners heard of it; a call that takes longer is sent to another one.
        """
        self._end_left()
        asked = {place.asked: place for place in self.places if place.replace_at == math.inf}
        for reference in ray.wait(list(asked), num_returns=len(asked), timeout=0)[0] if asked else ():
            self._judge(asked[reference])
        for index, place in enumerate(self.places):
            if time.monotonic() >= place.replace_at:
                ray.kill(place.actor)
                self.places[index] = replace(self._place(index), ended=place.ended)
        self.board.enlist.remote(self.replicas)  # again: a board that was lost has forgotten them

    def end(self) -> None:
        """Ends all replicas."""
        self.left += self.replicas
        self._end_left()

    def _place(self, index: int) -> _Place:
        number = next(self.numbers)
        actor = self.start(index, number)
        return _Place(number, actor, actor.__ray_ready__.remote())

    def _judge(self, place: _Place) -> None:
        """Asks a replica again that has answered, or that Ray starts again; of any other it decides when it is replaced."""
        try:
            ray.get(place.asked)
        except RayError as error:
            if _starts_again(error):
                place.ask()
                return
            place.ended += 1
            pause = min(LONGEST_PAUSE, PAUSE * 2 ** min(place.ended, MOST_DOUBLINGS))
            place.replace_at = time.monotonic() + pause
            self.lost()
            why = in_a_line(error)
            log.warning(
                "imagination: replica %d is lost (%s); for good, so another one is started again in %.0f s", place.number, why, pause
            )
        else:
            place.ended = 0
            place.ask()

    def _end_left(self) -> None:
        left, self.left = self.left, []
        for actor in left:
            ray.kill(actor)
