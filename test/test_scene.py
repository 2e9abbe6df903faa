"""Scenes could be real: tables are under things, what lies on something touches it, nothing is inside anything."""

from __future__ import annotations

import numpy as np
import pytest
from test_render import meshes

from mmcl_core.synth.background import TexturePool
from mmcl_core.synth.crops import FolderStock
from mmcl_core.synth.placing import pile
from mmcl_core.synth.raycast import Placed
from mmcl_core.synth.scene import compose

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("embreex")

__all__ = ["meshes"]  # a fixture
TABLE, WALL, FIRST_SHEET = 0, 2, 3  # textures


@pytest.fixture(scope="module")
def scenes(meshes):
    """Forty scenes of boxes and cans, half of them with a pile."""
    pool, stock, draw = TexturePool(0, 4), FolderStock(meshes), np.random.default_rng(0)
    items = [stock.item(label, "train", 0, draw) for label in (0, 1)]

    def neighbour(source):
        return items[int(source.integers(2))]

    return [compose(np.random.default_rng(k), items[k % 2], neighbour, pool, piles=0.5) for k in range(40)]


def surface(thing, count=3000):
    """Points [N, 3] on the faces and along the edges of a thing in its place, and its faces as planes [F, 4]."""
    body = trimesh.Trimesh(thing.solid.mesh.vertices @ thing.rotation.T + thing.position, thing.solid.mesh.faces)
    ends = body.vertices[body.edges_unique]
    along = np.linspace(0, 1, 40)[None, :, None]
    edges = (ends[:, :1] * (1 - along) + ends[:, 1:] * along).reshape(-1, 3)
    points = np.concatenate([edges, trimesh.sample.sample_surface(body, count, seed=0)[0]])
    return points, np.column_stack([body.face_normals, (body.face_normals * body.triangles[:, 0]).sum(axis=1)])


def clearance(first, second):
    """Least distance between two convex things, metres, to some millimetres; negative where one is inside the other."""
    gaps = []
    for (points, _), (_, planes) in ((first, second), (second, first)):
        gaps.append((points @ planes[:, :3].T - planes[:, 3]).max(axis=1).min())
    return min(gaps)


def place_on(panel, points):
    return np.stack(
        [(points - panel.centre) @ panel.u / panel.half[0], (points - panel.centre) @ panel.v / panel.half[1]]
    )


def is_on(panel, points):
    across = np.abs(place_on(panel, points))
    return bool(((across**2).sum(0) if panel.round else across.max(0)).max() <= 1 + 1e-4)


def test_tables_are_under_all_that_stands_on_them(scenes):
    tables = [scene.panels[TABLE] for scene in scenes]
    assert sum(np.isfinite(table.half[0]) for table in tables) >= 20  # the others are the floor
    assert any(table.round for table in tables)
    for scene, table in zip(scenes, tables, strict=True):
        for thing in scene.placed:
            assert is_on(table, thing.outline)
        wall = next(panel for panel in scene.panels if panel.texture == WALL)
        assert min(((thing.outline - wall.centre) @ wall.normal).min() for thing in scene.placed) > 0


def test_sheets_lie_on_the_table_one_over_the_other(scenes):
    found = 0
    for scene in scenes:
        sheets = [panel for panel in scene.panels if panel.texture >= FIRST_SHEET]
        corners = [
            sheet.centre + a * sheet.half[0] * sheet.u + b * sheet.half[1] * sheet.v
            for sheet in sheets
            for a in (-1, 1)
            for b in (-1, 1)
        ]
        assert all(is_on(scene.panels[TABLE], corner[None]) for corner in corners)
        assert len({float(sheet.centre[2]) for sheet in sheets}) == len(sheets)
        found += len(sheets)
    assert found >= 15


def test_what_lies_on_something_touches_it_and_nothing_is_inside_a_thing(scenes):
    raised_target, raised_other = 0, 0
    for scene in scenes:
        bodies = [surface(thing) for thing in scene.placed]
        lows = [float(thing.outline[:, 2].min()) for thing in scene.placed]
        assert min(lows) == pytest.approx(0, abs=1e-4)
        apart = np.full((len(bodies), len(bodies)), np.inf)
        for i in range(len(bodies)):
            for j in range(i):
                apart[i, j] = apart[j, i] = clearance(bodies[i], bodies[j])
        assert apart.min() > -0.0015
        for number, low in enumerate(lows):
            if low > 1e-4:
                assert apart[number].min() < 0.0025
        raised_target += lows[0] > 0.01
        raised_other += max([0, *lows[1:]]) > 0.01
    assert raised_target >= 3
    assert raised_other >= 5


def test_of_several_places_one_is_taken_where_the_upper_thing_would_tip_least(meshes):
    """A flat box on a can that lies along y: its middle is near the ridge, x = 0; the places differ by up to 28 mm."""
    stock, draw = FolderStock(meshes), np.random.default_rng(0)
    box, can = (stock.item(label, "train", 0, draw) for label in (0, 1))
    beside = []
    for seed in range(80):
        lying = Placed(can.solid, np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]), np.array([0, 0, 0.04]))
        placed, items = [lying], [can]
        pile(np.random.default_rng(seed), placed, items, box)
        assert [item.name for item in items] == ["can", "box"]
        upper = placed[1].outline
        flat = upper[upper[:, 2] < upper[:, 2].min() + 1e-4]
        if placed[0] is lying and np.ptp(flat, axis=0)[:2].min() > 0.02:  # the box is up, and on a face
            assert upper[:, 2].min() == pytest.approx(0.08, abs=5e-4)
            beside.append(abs(upper.min(0)[0] + upper.max(0)[0]) / 2)
    assert len(beside) >= 20
    assert max(beside) <= 0.0281
    assert np.median(beside) < 0.008
