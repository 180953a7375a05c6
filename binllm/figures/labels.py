"""Place labels beside points without overlaps: each label tries a ring of places, until none wants to move."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

ANGLES = 24
DISTANCES = (7.0, 11.0, 17.0, 26.0, 38.0, 54.0, 74.0, 100.0)  # from a point to the near edge of its label, points
ROUNDS = 6
# costs in points of distance: labels overlap something; leaders cross; a leader runs under something; a label lies on a
# line; a label is nearer to another point than to its own
OVERLAP, CROSSING, HIDDEN, STRUCK, AMBIGUOUS = 1000.0, 150.0, 25.0, 40.0, 30.0
AT_POINT = 3.0  # a leader that comes so near to a point seems to lead there
STEPS = 12  # samples of a leader


@dataclass(frozen=True)
class Box:
    """A rectangle with sides along the axes, in points (1/72 inch)."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """Common area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)

    def contains(self, point: tuple[float, float]) -> bool:
        """Whether a point is inside."""
        return self.left < point[0] < self.right and self.bottom < point[1] < self.top

    def nearest(self, point: tuple[float, float]) -> tuple[float, float]:
        """The point of the box that is nearest to another point."""
        return min(max(point[0], self.left), self.right), min(max(point[1], self.bottom), self.top)


Point = tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """What is drawn besides labels.

    Attributes:
        anchors: The points that get a label each.
        obstacles: What labels must not cover, such as markers.
        lines: What labels should rather not cover, as thin boxes.
        frame: What labels stay inside.
    """

    anchors: Sequence[Point]
    obstacles: Sequence[Box]
    lines: Sequence[Box]
    frame: Box


def place(scene: Scene, sizes: Sequence[Point]) -> list[Box]:
    """Find a place for every label.

    Args:
        scene: The points and what is around them.
        sizes: Width and height of each point's label.

    Returns:
        The labels' boxes; they overlap each other or an obstacle only where no place was free.
    """
    choices = [_choices(anchor, size, scene.frame) for anchor, size in zip(scene.anchors, sizes, strict=True)]
    chosen: list[Box | None] = [None] * len(sizes)
    for _ in range(ROUNDS):
        before = list(chosen)
        for index, places in enumerate(choices):
            others = {i: box for i, box in enumerate(chosen) if box is not None and i != index}
            chosen[index] = _cheapest(scene, index, places, others)
        if chosen == before:
            break
    return [box for box in chosen if box is not None]


def _choices(anchor: Point, size: Point, frame: Box) -> list[Box]:
    """Boxes around a point inside the frame: near ones first, right, above, left and below before what is between."""
    (x, y), (width, height) = anchor, size
    boxes = []
    for distance in DISTANCES:
        for step in sorted(range(ANGLES), key=lambda step: step % (ANGLES // 4) != 0):
            angle = 2 * math.pi * step / ANGLES
            across, up = math.cos(angle), math.sin(angle)
            side = max(abs(across), abs(up))  # on a rectangle around the point, so that all sides are equally far
            left = x - width / 2 + across / side * (distance + width / 2)
            bottom = y - height / 2 + up / side * (distance + height / 2)
            left = min(max(left, frame.left), frame.right - width)
            bottom = min(max(bottom, frame.bottom), frame.top - height)
            boxes.append(Box(left, bottom, left + width, bottom + height))
    return boxes


def _cheapest(scene: Scene, index: int, places: Sequence[Box], others: Mapping[int, Box]) -> Box:
    """The first of the cheapest places, so that a label does not move without a reason."""
    best, least = places[0], math.inf
    for box in places:
        cost = 0.0
        for part in _costs(scene, index, box, others):
            cost += part
            if cost >= least:  # most places end here at their first part, the distance
                break
        else:
            best, least = box, cost
    return best


def _costs(scene: Scene, index: int, box: Box, others: Mapping[int, Box]) -> Iterator[float]:
    """The parts of a place's cost, none of them negative."""
    anchor = scene.anchors[index]
    end = box.nearest(anchor)
    own = math.dist(anchor, end)
    yield own
    for one in (*scene.obstacles, *others.values()):
        yield OVERLAP * (box.overlap(one) > 0)
    for line in scene.lines:
        yield STRUCK * (box.overlap(line) > 0)
    for other in scene.anchors:
        yield AMBIGUOUS * (other != anchor and math.dist(other, box.nearest(other)) < own + 2)
    for other, label in others.items():
        yield CROSSING * _cross(anchor, end, scene.anchors[other], label.nearest(scene.anchors[other]))
    samples = [_between(anchor, end, step / STEPS) for step in range(1, STEPS)]
    for other in scene.anchors:
        yield HIDDEN * (other != anchor and any(math.dist(other, sample) < AT_POINT for sample in samples))
    for one in (*scene.obstacles, *others.values()):
        yield HIDDEN * (not one.contains(anchor) and any(one.contains(sample) for sample in samples))


def _between(first: Point, second: Point, share: float) -> Point:
    return first[0] + share * (second[0] - first[0]), first[1] + share * (second[1] - first[1])


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the segments ab and cd cross."""

    def side(p: Point, q: Point, r: Point) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
