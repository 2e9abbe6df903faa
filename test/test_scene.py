"""Scenes could be real: tables are under things, what lies on something touches it, nothing is inside anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_meshes import meshes

from mmcl_core.errors import DataError
from mmcl_core.synth import scene as scene_module
from mmcl_core.synth.background import TexturePool
from mmcl_core.synth.mesh import Mesh
from mmcl_core.synth.placing import Item, pile
from mmcl_core.synth.raycast import Placed, cast
from mmcl_core.synth.scene import compose
from mmcl_core.synth.stock import FolderStock

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("embreex")

__all__ = ["meshes"]  # a fixture
TABLE, WALL, FIRST_SHEET = 0, 2, 3  # textures
# fmt: off
DRAWN = (  # of three scenes: camera, side of the window, the object of the pile, the table
    0.0755, -0.604, 0.8334, 264.4151, 0.1328, -0.2899, 0.1397, -0.0172, 0.4598, -0.0003,
    -0.7735, 0.2488, 0.4251, 152.4461, 0.0286, 0.0179, 0.06, -0.1166, 0.606, -0.0003,
    0.1586, -0.5043, 0.7172, 215.8825, 0.0014, 0.0454, 0.04, -0.1057, -0.757, -0.0003,
)
# fmt: on


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


def test_walls_are_behind_all_things():
    moved = 0
    for seed in range(30):
        things = np.array([[0.0, 0, 0], [0.1, 0.1, 0.2], [-1.0, 0, 0]])  # the last one far behind, seen along -x
        panels, _ = scene_module._room(np.random.default_rng(seed), TexturePool(0, 1), 0.0, things)
        wall = next(panel for panel in panels if panel.texture == WALL)
        before = (things - wall.centre) @ wall.normal
        assert before.min() > 0
        moved += before.min() < 0.003
    assert 5 <= moved <= 25


def test_a_round_table_that_holds_all_stays_where_it_is():
    half, middle = np.array([0.5, 0.3]), np.array([0.1, 0.0])
    corner = middle + half * [0.9, 0.2]  # inside the ellipse, beside the rectangle in it
    same = scene_module._table(half, middle, np.array([[0.0, 0.0], corner]), disc=True)
    assert np.array_equal(same[0], half)
    assert np.array_equal(same[1], middle)
    outside = np.array([[0.0, 0.0], middle + half * [0.9, 0.9]])
    half, middle = scene_module._table(half, middle, outside, disc=True)
    assert (((outside - middle) / half) ** 2).sum(axis=1).max() <= 1 + 1e-9


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
        heights = [scene.panels[TABLE].centre[2], *(sheet.centre[2] for sheet in sheets)]
        assert (np.diff(heights) > 0).all()
        assert heights[-1] < 0  # below all things
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


def plates(*quads, name):
    """An item of rectangles without thickness, each four corners [4, 3] in metres."""
    corners = np.array(quads, float).reshape(-1, 3)
    faces = [[4 * k + i for i in triangle] for k in range(len(quads)) for triangle in ((0, 1, 2), (0, 2, 3))]
    return Item(
        name, name, Mesh(corners, np.array(faces), np.zeros((len(corners), 2)), np.full((2, 2, 3), 90, np.uint8))
    )


def test_walls_without_thickness_carry_and_are_carried(monkeypatch):
    """Faces seen edge-on by all vertical rays: an open box (0.1 m), a card (0.15 m high) and a board."""
    s = 0.05
    ring = [(-s, -s), (s, -s), (s, s), (-s, s)]
    sides = [[(*a, 0), (*b, 0), (*b, 0.1), (*a, 0.1)] for a, b in zip(ring, ring[1:] + ring[:1], strict=True)]
    box = plates([(x, y, 0) for x, y in ring], *sides, name="open box")
    card = plates([(-s, 0, 0), (s, 0, 0), (s, 0, 0.15), (-s, 0, 0.15)], name="card")
    board = plates([(2 * x, 2 * y, 0) for x, y in ring], name="board")
    monkeypatch.setattr("mmcl_core.synth.placing.random_pose", lambda rng, item: np.eye(3))
    for lower, upper, height in ((box, board, 0.1), (card, board, 0.15), (card, box, 0.15)):
        heights = []
        for seed in range(12):
            placed, items = [Placed(lower.solid, np.eye(3), np.zeros(3))], [lower]
            pile(np.random.default_rng(seed), placed, items, upper)
            if placed[0].outline[:, 2].min() == 0:  # the new thing is not under the old one
                heights.append(float(placed[1].outline[:, 2].min()))
        assert len(heights) >= 5
        np.testing.assert_allclose(heights, height, atol=2e-3)


def test_a_raised_target_is_in_no_third_thing(meshes, monkeypatch):
    """A long board is put on a low box beside a high one, which then carries it."""
    monkeypatch.setattr("mmcl_core.synth.placing.random_pose", lambda rng, item: np.eye(3))
    board = plates([(-0.2, -0.02, 0), (0.2, -0.02, 0), (0.2, 0.02, 0), (-0.2, 0.02, 0)], name="board")
    box = FolderStock(meshes).item(0, "train", 0, np.random.default_rng(0))  # 0.06 x 0.1 x 0.15 m
    square = [(-0.01, -0.01), (0.01, -0.01), (0.01, 0.01), (-0.01, 0.01)]
    low = plates([(x, y, 0) for x, y in square], [(x, y, 0.02) for x, y in square], name="low")
    carried = 0
    for seed in range(12):
        beside = Placed(
            box.solid, np.eye(3), np.array([0.18, 0, 0]) - [*box.solid.centre[:2], box.solid.outline[:, 2].min()]
        )
        placed, items = [Placed(board.solid, np.eye(3), np.zeros(3)), beside], [board, box]
        pile(np.random.default_rng(seed), placed, items, low)
        if placed[0].outline[:, 2].min() > 0:
            carried += 1
            assert placed[0].outline[:, 2].min() == pytest.approx(0.15, abs=1e-3)
    assert carried >= 2


def test_every_scene_that_is_to_have_a_pile_has_one(meshes):
    stock, draw = FolderStock(meshes), np.random.default_rng(0)
    items = [stock.item(label, "train", 0, draw) for label in (0, 1)]
    for seed in range(40):
        rng = np.random.default_rng(seed)
        placed, things = scene_module.place(rng, items[0], [items[1]] * 3, 0.0)
        count = len(placed)
        pile(rng, placed, things, items[seed % 2])
        assert len(placed) == len(things) == count + 1
        assert max(thing.outline[:, 2].min() for thing in placed) > 0.001


def test_another_scene_is_another_version(meshes):
    """Poses and cameras of a few scenes, to a tenth of a millimetre: who changes them raises ``VERSION``, and this."""
    pool, stock, draw = TexturePool(0, 4), FolderStock(meshes), np.random.default_rng(0)
    items = [stock.item(label, "train", 0, draw) for label in (0, 1)]
    drawn = []
    for seed in range(3):
        scene = compose(np.random.default_rng(seed), items[0], lambda _: items[1], pool, piles=1.0)
        drawn += [*scene.camera.position, scene.side, *scene.placed[-1].position, *scene.panels[TABLE].centre]
    assert scene_module.VERSION == 4
    np.testing.assert_allclose(drawn, DRAWN, atol=1e-4)


def seen_of_target(scene, panels, size=96):
    """Share of the rays through the crop that meet the target, of those that meet it with nothing else there."""
    camera = scene.camera.window(scene.left, scene.top, scene.side, size)
    rays = camera.rays(size, size)
    alone = cast(camera.position, rays, scene.placed[:1]).owner == 0
    return (cast(camera.position, rays, scene.placed, panels).owner == 0).sum() / alone.sum()


def test_nothing_flat_is_hidden_by_what_it_lies_on(meshes, monkeypatch):
    """A square without thickness, on the table with sheets and on a box."""
    monkeypatch.setattr("mmcl_core.synth.placing.random_pose", lambda rng, item: np.eye(3))
    square = plates([(-0.05, -0.05, 0), (0.05, -0.05, 0), (0.05, 0.05, 0), (-0.05, 0.05, 0)], name="square")
    box = FolderStock(meshes).item(0, "train", 0, np.random.default_rng(0))
    pool, raised = TexturePool(0, 1), 0
    for seed in range(24):
        rng = np.random.default_rng(seed)
        scene = compose(rng, square, lambda _: box, pool, most_neighbours=0, piles=0.5)
        up = scene.placed[0].outline[:, 2].min() > 0.01
        raised += up
        if up or len(scene.placed) == 1:
            assert seen_of_target(scene, scene.panels) > 0.98
    assert raised >= 3


def test_visible_is_what_neighbours_leave_of_the_target(scenes):
    hidden = 0
    for scene in scenes:
        inside = scene.left > 0 and scene.top > 0 and scene.left + scene.side < 640 and scene.top + scene.side < 480
        if inside and scene.visible > 0.9:
            assert seen_of_target(scene, []) > 0.8
        if inside and scene.visible < 0.7:
            hidden += 1
            assert seen_of_target(scene, []) < 0.95
    assert hidden >= 1
    assert all(scene.visible >= 0.45 for scene in scenes)


@pytest.mark.parametrize(("axis", "last"), [(0, False), (0, True), (1, False), (1, True)])
def test_what_lies_beyond_the_border_of_the_picture_is_not_visible(meshes, monkeypatch, axis, last):
    """The middle of the target is near the left, right, upper or lower border; against a look at all of it."""
    aim, border = scene_module._aim, ((640, 480)[axis] - 0.5) if last else -0.5

    def moved(rng, target, azimuth):
        camera = aim(rng, target, azimuth)
        low, high = (end(camera.project(target.outline)[0][:, axis]) for end in (np.min, np.max))
        shift = border - (low + high) / 2 - (0.15 if last else -0.15) * (high - low)
        return replace(camera, **{"cy" if axis else "cx": (camera.cy if axis else camera.cx) + shift})

    monkeypatch.setattr(scene_module, "_aim", moved)
    pool, item = TexturePool(0, 1), FolderStock(meshes).item(0, "train", 0, np.random.default_rng(0))
    for seed in range(3):
        scene = compose(np.random.default_rng(seed), item, lambda _: item, pool)
        pixels = scene.camera.project(scene.placed[0].outline)[0]
        (left, top), side = pixels.min(0), float(np.ptp(pixels, axis=0).max())
        whole = scene.camera.window(left, top, side, 160)
        rays = whole.rays(160, 160)
        alone, hits = (cast(whole.position, rays, placed).owner == 0 for placed in (scene.placed[:1], scene.placed))
        x, y = (start - 0.5 + (np.arange(160) + 0.5) * side / 160 for start in (left, top))
        inside = ((x > -0.5) & (x < 639.5))[None] & ((y > -0.5) & (y < 479.5))[:, None]
        assert scene.visible == pytest.approx((hits & inside.ravel()).sum() / alone.sum(), abs=0.04)
        assert 0.45 <= scene.visible < 0.85


def test_lamps_stand_clear_of_large_things():
    for seed in range(20):
        lighting = scene_module._lighting(np.random.default_rng(seed), np.full(3, 0.5), False, 4.0)
        assert min(np.linalg.norm(lamp.position) for lamp in lighting.lamps) > 4.0


def test_the_rim_of_a_finely_divided_box_carries(monkeypatch):
    """Four walls without thickness, 0.1 m high, of 20 x 20 squares each; a pen lies across the rim."""
    monkeypatch.setattr("mmcl_core.synth.placing.random_pose", lambda rng, item: np.eye(3))
    s, steps = 0.05, np.linspace(-0.05, 0.05, 21)
    ring = [(-s, -s), (s, -s), (s, s), (-s, s)]
    cells = []
    for a, b in zip(ring, ring[1:] + ring[:1], strict=True):
        way = (np.array(b) - a) / 0.1
        for u, v in zip(steps[:-1] + s, steps[1:] + s, strict=True):
            ends = [(*(a + way * u), 0.0), (*(a + way * v), 0.0)]
            cells += [[(*ends[0][:2], z), (*ends[1][:2], z), (*ends[1][:2], y), (*ends[0][:2], y)]
                      for z, y in zip(steps[:-1] + s, steps[1:] + s, strict=True)]  # fmt: skip
    box = plates(*cells, name="open box")
    half = (0.004, 0.075, 0.008)
    corners = [
        (x, y, z)
        for z in (0, half[2])
        for x, y in ((-half[0], -half[1]), (half[0], -half[1]), half[:2], (-half[0], half[1]))
    ]
    quads = [(0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)]
    pen = plates(*[[corners[k] for k in quad] for quad in quads], name="pen")
    heights, across = [], []
    for seed in range(30):
        placed, items = [Placed(box.solid, np.eye(3), np.zeros(3))], [box]
        pile(np.random.default_rng(seed), placed, items, pen)
        if placed[0].outline[:, 2].min() == 0:
            heights.append(float(placed[1].outline[:, 2].min()))
            across.append(float(placed[1].centre[0]))
    assert len(heights) >= 8
    np.testing.assert_allclose(heights, 0.1, atol=2e-3)
    assert np.abs(across).max() < 0.04  # on two sides of the rim, not on a corner of it


def test_a_round_thing_beside_another_is_no_pile():
    """A ball of 7 cm over the hole of a frame stands on the table: it does not count as lying on the frame."""
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.035)
    ball = Item(
        "ball",
        "ball",
        Mesh(ball.vertices, ball.faces, np.zeros((len(ball.vertices), 2)), np.full((2, 2, 3), 90, np.uint8)),
    )
    frame = plates(
        *[
            [(x - 0.005, y, 0), (x + 0.005, y, 0), (x + 0.005, -y, 0.02), (x - 0.005, -y, 0.02)]
            for x, y in ((-0.2, 0.2), (0.2, 0.2))
        ],
        name="frame",
    )
    for seed in range(30):
        placed, items = [Placed(frame.solid, np.eye(3), np.zeros(3))], [frame]
        pile(np.random.default_rng(seed), placed, items, ball)
        for thing in placed[1:]:
            assert max(thing.outline[:, 2].min(), placed[0].outline[:, 2].min()) > 1e-3


def test_a_mesh_that_no_view_shows_is_told():
    ends = np.linspace(0, 0.3, 5)
    corners = np.stack([ends, ends, ends], axis=1)[:, None] + 1e-7 * np.eye(3)
    dust = Mesh(corners.reshape(-1, 3), np.arange(15).reshape(-1, 3), np.zeros((15, 2)), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match="none of twelve scenes shows enough of the mesh dust: too little of it"):
        compose(np.random.default_rng(0), Item("dust", "dust", dust), lambda source: None, TexturePool(0, 4), False, 0)
