"""Fewer triangles for the same surface: quadric error metrics (Garland and Heckbert 1997,
https://doi.org/10.1145/258734.258849).

Every vertex keeps the sum of squared distances to the planes of the triangles that were merged into it, weighted by
their areas: a quadric v'Av + 2b'v + c. Collapsing an edge costs the least value of the sum of its ends' quadrics. Where
the paper takes one edge at a time from a heap, a round here takes many, none of which is a neighbour of another: each
is the cheapest of its surroundings and among the cheapest of all, so the order hardly differs, and all is arithmetic on
whole arrays.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from voxfield.checks import check_range
from voxfield.errors import InputError

_CHEAPEST: Final = 0.35
"""Share of the edges, by cost, among which a round may choose."""
_PICKS: Final = 3
"""How often a round picks edges away from those that it has already."""
_BORDER: Final = 10.0
"""Weight of the planes that stand on open borders, against that of the triangles there."""
_LEAST_COSINE: Final = 0.2
"""Between a triangle's normals before and after a collapse: none may turn further."""
_PULL: Final = 1e-3
"""How strongly an edge's middle attracts the new vertex, against the planes, which may leave it undecided."""


def decimated(vertices: np.ndarray, faces: np.ndarray, triangles: int) -> tuple[np.ndarray, np.ndarray]:
    """A surface of at most ``triangles`` triangles, as near to the given one as can be.

    Closed surfaces stay closed and keep their holes; no triangle turns over.

    Args:
        vertices: (V, 3) float, finite.
        faces: (F, 3) int64 indices of vertices, consistently oriented.
        triangles: at least 4.

    Returns:
        Vertices (W, 3) float32 and faces (G, 3) int64; those given where they are so few already.

    Raises:
        InputError: the surface cannot do with so few.
    """
    check_range("triangles", triangles, minimum=4)
    if len(faces) <= triangles:
        return vertices.astype(np.float32), faces
    mesh = _Mesh.of(vertices.astype(np.float64), faces)
    refused, gained = np.zeros(0, np.int64), 0
    while len(mesh.faces) > triangles:
        before = len(mesh.faces)
        again = mesh.collapse_some(before - triangles, refused)
        gained += before - len(mesh.faces)
        if len(mesh.faces) < before or len(again):
            refused = np.concatenate([refused, again])
        elif gained:
            # What was refused may be possible now that its surroundings are others.
            refused, gained = np.zeros(0, np.int64), 0
        else:
            raise InputError(
                f"triangles: the mesh cannot do with less than {before:,} of them, got {triangles:,}. Ask for more, "
                "for a lower resolution, or leave small parts out."
            )
    used, compact = np.unique(mesh.faces, return_inverse=True)
    return mesh.vertices[used].astype(np.float32), compact.reshape(-1, 3).astype(np.int64)


@dataclass(eq=False)
class _Mesh:
    """A surface that loses edges."""

    vertices: np.ndarray
    """(V, 3) float64; those that no triangle has any more stay."""
    quadrics: np.ndarray
    """(V, 10): A as xx, xy, xz, yy, yz, zz, then b, then c."""
    faces: np.ndarray
    """(F, 3) int64."""

    @classmethod
    def of(cls, vertices: np.ndarray, faces: np.ndarray) -> "_Mesh":
        """With the quadrics of its triangles, and of planes upright on its open borders."""
        corners = vertices[faces]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        length = np.linalg.norm(normal, axis=1)
        unit = normal / np.maximum(length, 1e-300)[:, None]
        planes = _plane_quadrics(unit, corners[:, 0], length / 2)
        quadrics = np.zeros((len(vertices), 10))
        for corner in range(3):
            np.add.at(quadrics, faces[:, corner], planes)
        keys, which, counts = np.unique(_edge_keys(faces, len(vertices)), return_inverse=True, return_counts=True)
        open_sides = np.nonzero(counts[which.ravel()] == 1)[0]
        if len(open_sides):
            low, high = np.divmod(keys[which.ravel()[open_sides]], len(vertices))
            along = vertices[high] - vertices[low]
            upright = np.cross(along, unit[open_sides // 3])
            weight = np.linalg.norm(upright, axis=1)
            planes = _plane_quadrics(
                upright / np.maximum(weight, 1e-300)[:, None], vertices[low], _BORDER * (along**2).sum(1)
            )
            np.add.at(quadrics, low, planes)
            np.add.at(quadrics, high, planes)
        return cls(vertices=vertices, quadrics=quadrics, faces=faces)

    def collapse_some(self, most: int, refused: np.ndarray) -> np.ndarray:
        """Collapse cheap edges apart from each other until about ``most`` triangles are gone; not those ``refused``.

        Returns:
            Keys of edges whose collapse would tear the surface or turn a triangle over.
        """
        count = len(self.vertices)
        keys, sides = np.unique(_edge_keys(self.faces, count), return_counts=True)
        ends = np.stack(np.divmod(keys, count), axis=1)
        places, costs = self._merged(ends)
        costs[(sides > 2) | np.isin(keys, refused)] = np.inf
        allowed = int(np.isfinite(costs).sum())
        order = np.argsort(costs)[: min(allowed, max(1, int(_CHEAPEST * allowed)))]
        picked = _apart(ends, order, count)
        sound = self._sound(ends, sides, picked, places)
        kept = picked[sound]
        kept = kept[: int(np.searchsorted(np.cumsum(sides[kept]), most)) + 1]
        stays, goes = ends[kept].T
        self.vertices[stays] = places[kept]
        self.quadrics[stays] += self.quadrics[goes]
        merged = np.arange(count)
        merged[goes] = stays
        faces = merged[self.faces]
        whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
        self.faces = faces[whole]
        return keys[picked[~sound]]

    def _merged(self, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the vertices (E, 3) that replace edges ``ends`` (E, 2) are best placed, and what that costs (E,)."""
        q = self.quadrics[ends[:, 0]] + self.quadrics[ends[:, 1]]
        one, other = self.vertices[ends[:, 0]], self.vertices[ends[:, 1]]
        middle = (one + other) / 2
        pull = _PULL * (q[:, 0] + q[:, 3] + q[:, 5]) / 3 + 1e-300
        xx, yy, zz = q[:, 0] + pull, q[:, 3] + pull, q[:, 5] + pull
        xy, xz, yz = q[:, 1], q[:, 2], q[:, 4]
        x, y, z = pull * middle.T - q[:, 6:9].T
        # Cramer's rule; the pull keeps the determinant above 0.
        a, b, c = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
        d, e, f = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
        determinant = np.maximum(xx * a + xy * b + xz * c, 1e-300)
        place = (
            np.stack([a * x + b * y + c * z, b * x + d * y + e * z, c * x + e * y + f * z], 1) / determinant[:, None]
        )
        far = ((place - middle) ** 2).sum(1) > ((one - other) ** 2).sum(1)
        place = np.where(far[:, None], middle, place)
        x, y, z = place.T
        cost = x * (q[:, 0] * x + 2 * (q[:, 1] * y + q[:, 2] * z)) + y * (q[:, 3] * y + 2 * q[:, 4] * z)
        cost += q[:, 5] * z * z + 2 * (q[:, 6:9] * place).sum(1) + q[:, 9]
        return place, np.maximum(cost, 0)

    def _sound(self, ends: np.ndarray, sides: np.ndarray, picked: np.ndarray, places: np.ndarray) -> np.ndarray:
        """(P,) bool: edges ``picked``, apart from each other, whose collapse neither tears nor turns anything over."""
        count, number = len(self.vertices), np.arange(len(picked))
        owner = np.full(count, -1)
        owner[ends[picked]] = number[:, None]
        sound = self._turn_nothing(owner, places[picked])
        # The link condition: the ends' common neighbours are the far corners of the triangles that go.
        around = np.concatenate([ends, ends[:, ::-1]])
        around = around[(owner[around[:, 0]] >= 0) & (owner[around[:, 0]] != owner[around[:, 1]])]
        pairs, times = np.unique(owner[around[:, 0]] * count + around[:, 1], return_counts=True)
        common = np.bincount(pairs[times == 2] // count, minlength=len(picked))
        sound &= common == sides[picked]
        border = np.zeros(count, bool)
        border[ends[sides == 1]] = True
        return sound & ~(border[ends[picked]].all(1) & (sides[picked] == 2))

    def _turn_nothing(self, owner: np.ndarray, places: np.ndarray) -> np.ndarray:
        """(P,) bool: edges that own vertices which can become ``places`` (P, 3) and no triangle turns or folds."""
        owners = owner[self.faces]
        moved = np.nonzero((owners >= 0).sum(1) == 1)[0]
        before = self.vertices[self.faces[moved]]
        moving, edge = owners[moved] >= 0, owners[moved].max(1)
        after = np.where(moving[:, :, None], places[edge][:, None], before)
        old, new = (np.cross(some[:, 1] - some[:, 0], some[:, 2] - some[:, 0]) for some in (before, after))
        sizes = np.linalg.norm(old, axis=1), np.linalg.norm(new, axis=1)
        fits = ((old * new).sum(1) > _LEAST_COSINE * sizes[0] * sizes[1]) | (sizes[0] == 0)
        sound = np.ones(len(places), bool)
        sound[edge[~fits]] = False
        # Two triangles on the same far side would become one and its back.
        far = np.sort(np.where(moving, -1, self.faces[moved]), axis=1)[:, 1:]
        order = np.lexsort((far[:, 1], far[:, 0], edge))
        same = (far[order[1:]] == far[order[:-1]]).all(1) & (edge[order[1:]] == edge[order[:-1]])
        sound[edge[order[1:][same]]] = False
        return sound


def _edge_keys(faces: np.ndarray, count: int) -> np.ndarray:
    """(3F,) int64: lower times ``count`` plus higher vertex of every side of every triangle."""
    starts, stops = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    return np.minimum(starts, stops) * count + np.maximum(starts, stops)


def _plane_quadrics(normals: np.ndarray, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N, 10) quadrics of planes with unit ``normals`` (N, 3) through ``points`` (N, 3)."""
    x, y, z = normals.T
    offset = -(normals * points).sum(1)
    parts = [x * x, x * y, x * z, y * y, y * z, z * z, x * offset, y * offset, z * offset, offset * offset]
    return np.stack(parts, axis=1) * weights[:, None]


def _apart(ends: np.ndarray, order: np.ndarray, count: int) -> np.ndarray:
    """Of the edges ``order``, cheapest first, some of which no two have neighbouring ends, cheapest first.

    Args:
        ends: (E, 2) vertices of all edges, which say what is a neighbour.
        order: indices of those that may be taken.
        count: vertices there are.
    """
    taken = np.zeros(count, bool)
    picked = [np.zeros(0, np.int64)]
    rank = np.arange(len(order))
    for _ in range(_PICKS):
        rank = rank[~taken[ends[order[rank]]].any(1)]
        live = ends[order[rank]]
        own = np.full(count, len(order))
        # Of several writes to one place the last one stays, which is that of the cheapest.
        own[live[::-1].ravel()] = np.repeat(rank[::-1], 2)
        near = own.copy()
        np.minimum.at(near, ends[:, 0], own[ends[:, 1]])
        np.minimum.at(near, ends[:, 1], own[ends[:, 0]])
        found = rank[near[live].min(1) == rank]
        picked.append(found)
        taken[ends[order[found]]] = True
        ring = taken[ends].any(1)
        taken[ends[ring]] = True
    return order[np.sort(np.concatenate(picked))]
