"""Meshes, ray caster and camera against closed forms; poses and shadows against simple geometry."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from mmcl_core.errors import DataError
from mmcl_core.synth.mesh import Mesh, object_files, smooth_normals
from mmcl_core.synth.mesh_files import load_mesh
from mmcl_core.synth.placing import resting_rotations, yaw
from mmcl_core.synth.raycast import Camera, Panel, Placed, Solid, blocked, cast
from mmcl_core.synth.shade import MeshSkin, Pyramid, surface
from mmcl_core.synth.stock import FolderStock

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("embreex")

LOOK_DOWN = np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])  # camera x right, y towards -y, z down


def mesh_of(shape, colour=(200, 100, 50)) -> Mesh:
    texture = np.full((8, 8, 3), colour, np.uint8)
    return Mesh(shape.vertices, shape.faces, np.full((len(shape.vertices), 2), 0.5), texture)


def sphere(radius: float) -> Mesh:
    return mesh_of(trimesh.creation.icosphere(subdivisions=5, radius=radius))


def camera_above(height: float, focal: float = 100.0, size: int = 64) -> Camera:
    return Camera(focal, focal, (size - 1) / 2, (size - 1) / 2, LOOK_DOWN, np.array([0, 0, height]))


def test_sphere_depth_and_normals_match_the_closed_form():
    radius, height, size = 0.2, 1.0, 64
    camera = camera_above(height, size=size)
    rays = camera.rays(size, size)
    placed = [Placed(Solid(sphere(radius)), yaw(0.7), np.zeros(3))]
    hits = cast(camera.position, rays, placed)
    # |p + z d|^2 = r^2, solved ray by ray
    expected = np.full(size * size, np.inf)
    for k, d in enumerate(rays.T.astype(float)):
        a, b, c = d @ d, camera.position @ d, camera.position @ camera.position - radius**2
        if b * b > a * c:
            expected[k] = (-b - np.sqrt(b * b - a * c)) / a
    rim = np.abs(np.isfinite(expected).astype(int) - np.isfinite(hits.z)).sum()
    assert rim <= 8  # the faceted outline may differ in a pixel here and there
    both = np.isfinite(expected) & np.isfinite(hits.z)
    assert both.sum() > 500
    inner = both & (np.linalg.norm((camera.position[:, None] + hits.z * rays)[:2], axis=0) < 0.9 * radius)
    np.testing.assert_allclose(hits.z[inner], expected[inner], atol=5e-4)
    seen = surface(camera, rays, hits, placed, [MeshSkin(placed[0].solid.mesh)], [], [])
    np.testing.assert_allclose(seen.normals[:, inner], seen.points[:, inner] / radius, atol=0.02)
    assert (seen.colour[both] == (200, 100, 50)).all()


def test_box_depth_is_metric_z_not_distance():
    camera = camera_above(1.0, focal=50.0)
    placed = [Placed(Solid(mesh_of(trimesh.creation.box((0.4, 0.4, 0.1)))), np.eye(3), np.array([0, 0, 0.05]))]
    hits = cast(camera.position, camera.rays(64, 64), placed, [Panel(np.zeros(3), *np.eye(3)[:2], (np.inf, np.inf))])
    z = hits.z.reshape(64, 64)
    top = hits.owner.reshape(64, 64) == 0
    np.testing.assert_allclose(z[top], 0.9, atol=1e-5)  # a plane across the axis has one depth, oblique rays or not
    np.testing.assert_allclose(z[~top], 1.0, atol=1e-5)
    half = 0.2 / 0.9 * 50  # pixels from the centre to the edge of the top
    x = np.arange(64) - 31.5
    assert (top == (np.abs(x)[None] < half) & (np.abs(x)[:, None] < half)).all()


def test_finite_and_round_panels():
    camera = camera_above(1.0, focal=50.0)
    x = (np.arange(64) - 31.5) / 50
    u, v = np.eye(3)[:2]
    for is_round in (False, True):
        hits = cast(camera.position, camera.rays(64, 64), [], [Panel(np.zeros(3), u, v, (0.3, 0.2), round=is_round)])
        a, b = (x / 0.3)[None], (x / 0.2)[:, None]
        inside = a**2 + b**2 <= 1 if is_round else (abs(a) <= 1) & (abs(b) <= 1)
        assert (np.isfinite(hits.z).reshape(64, 64) == inside).all()


def test_projected_points_lie_on_their_rays():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    camera = Camera(90.0, 80.0, 20.0, 12.0, rotation, rng.standard_normal(3))
    rays = camera.rays(40, 30)
    depth = rng.uniform(0.5, 2, 40 * 30)
    pixels, z = camera.project(camera.position + (rays * depth).T)
    column, row = np.meshgrid(np.arange(40), np.arange(30))
    np.testing.assert_allclose(pixels, np.stack([column, row], -1).reshape(-1, 2), atol=1e-3)
    np.testing.assert_allclose(z, depth, rtol=1e-5)


def test_window_of_a_camera_sees_the_same_points():
    camera = Camera(500.0, 510.0, 320.0, 240.0, LOOK_DOWN, np.array([0, 0, 1.0]))
    window = camera.window(left=100.0, top=50.0, side=96.0, size=32)
    points = np.array([[0.1, 0.05, 0.0], [-0.2, 0.1, 0.1]])
    whole, part = camera.project(points)[0], window.project(points)[0]
    # pixel k of the window is the mean of three pixels of the whole: 100 + 3 k, + 1, + 2
    np.testing.assert_allclose(whole[:, 0], 100 + 3 * part[:, 0] + 1, atol=1e-6)
    np.testing.assert_allclose(whole[:, 1], 50 + 3 * part[:, 1] + 1, atol=1e-6)


def test_nearest_of_several_solids_wins():
    camera = camera_above(1.0)
    box = Solid(mesh_of(trimesh.creation.box((0.2, 0.2, 0.1))))
    placed = [Placed(box, np.eye(3), np.array([0, 0, h])) for h in (0.05, 0.35, 0.2)]
    hits = cast(camera.position, camera.rays(64, 64), placed)
    assert hits.owner[32 * 64 + 32] == 1
    assert hits.z[32 * 64 + 32] == pytest.approx(0.6, abs=1e-5)


def test_shadow_of_a_box():
    placed = [Placed(Solid(mesh_of(trimesh.creation.box((0.1, 0.1, 0.1)))), np.eye(3), np.array([0, 0, 0.05]))]
    x = np.array([0.06, 0.1, 0.14, 0.16, 0.3, -0.06, -0.2], np.float32)
    points = np.stack([x, 0 * x, 0 * x])
    normals = np.tile(np.array([[0], [0], [1]], np.float32), len(x))
    light = np.tile(np.array([[-1], [0], [1]], np.float32) / np.float32(np.sqrt(2)), len(x))
    # light from -x at 45 degrees: the box of height 0.1 shades x from 0.05 to 0.15
    assert blocked(points, normals, light, placed).tolist() == [True, True, True, False, False, False, False]
    assert not blocked(points, normals, light, placed, reach=0.005).any()


def test_what_faces_the_light_is_not_in_a_shadow_of_its_own():
    placed = [Placed(Solid(sphere(0.2)), yaw(0.7), np.array([0.01, 0.02, 0.03]))]
    camera = camera_above(1.0, focal=150.0)
    rays = camera.rays(64, 64)
    hits = cast(camera.position, rays, placed)
    met = np.flatnonzero(hits.owner == 0)
    points = (camera.position[:, None] + rays[:, met] * hits.z[met]).astype(np.float32)
    normals = points - placed[0].position[:, None].astype(np.float32)
    normals /= np.linalg.norm(normals, axis=0)
    light = np.array([0.6, 0.0, 0.8], np.float32)
    lit = light @ normals
    found = blocked(points, normals, np.tile(light[:, None], len(met)), placed)
    assert (lit > 0.1).sum() > 500
    assert not found[lit > 0.1].any()
    assert found[lit < -0.1].all()


def test_normals_smooth_on_round_parts_and_sharp_at_edges():
    box = trimesh.creation.box((1, 1, 1))
    flat = smooth_normals(box.vertices, box.faces)
    np.testing.assert_allclose(flat, np.repeat(box.face_normals[:, None], 3, axis=1), atol=1e-6)
    can = trimesh.creation.cylinder(radius=1, height=2, sections=32)
    corners, normals = can.vertices[can.faces], smooth_normals(can.vertices, can.faces)
    side = np.abs(can.face_normals[:, 2]) < 0.5
    radial = corners[side] * (1, 1, 0)
    np.testing.assert_allclose(normals[side], radial / np.linalg.norm(radial, axis=-1, keepdims=True), atol=0.05)
    np.testing.assert_allclose(np.abs(normals[~side][..., 2]), 1, atol=1e-6)


def fan(faces, height):
    """A mesh of triangles around one point; ``height`` of the rim by the angle."""
    angle = np.linspace(0, 2 * np.pi, faces, endpoint=False)
    rim, k = np.stack([np.cos(angle), np.sin(angle), height(angle)], axis=1), np.arange(faces)
    return np.concatenate([np.zeros((1, 3)), rim]), np.stack([0 * k, 1 + k, 1 + (k + 1) % faces], axis=1)


def soup(faces):
    """Triangles without order: many around each of a few points, some without an area."""
    rng = np.random.default_rng(faces)
    vertices = rng.normal(size=(faces, 3))
    vertices[: faces // 5] = vertices[0]
    return vertices, np.concatenate([rng.integers(0, 3, (faces, 1)), rng.integers(0, faces, (faces, 2))], 1)


def normals_one_by_one(vertices, faces, crease):
    """Every corner by itself, against all faces around its point."""
    corners = vertices[faces]
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    unit = area / np.maximum(np.linalg.norm(area, axis=1, keepdims=True), 1e-20)
    place = np.round(corners, 6)
    result = np.empty(corners.shape)
    for face in range(len(faces)):
        for k in range(3):
            around = (place == place[face, k]).all(2).sum(1)  # how many corners of each face are at the point
            total = (around * (unit @ unit[face] > np.cos(np.deg2rad(crease)))) @ area
            length = np.linalg.norm(total)
            result[face, k] = total / length if length > 1e-20 else unit[face]
    return result


def ball():
    """Smooth, but for a flat side."""
    mesh = trimesh.creation.icosphere(subdivisions=2)
    return np.where(mesh.vertices[:, 2:] > 0.6, mesh.vertices * (1, 1, 0) + (0, 0, 0.6), mesh.vertices), mesh.faces


@pytest.mark.parametrize(
    "mesh",
    [
        ball(),
        *(fan(400, height) for height in (np.zeros_like, np.ones_like, lambda angle: 0.4 * np.sin(9 * angle))),
        fan(400, lambda angle: np.random.default_rng(0).normal(size=len(angle))),
        *(soup(faces) for faces in (90, 900)),
    ],
)
@pytest.mark.parametrize("crease", [5.0, 40.0, 130.0])
@pytest.mark.parametrize("crowd", [0, 256, 10**9])
def test_normals_are_those_of_comparing_every_corner_with_all_faces_around_it(monkeypatch, mesh, crease, crowd):
    monkeypatch.setattr("mmcl_core.synth.mesh._CROWD", crowd)
    np.testing.assert_allclose(smooth_normals(*mesh, crease), normals_one_by_one(*mesh, crease), atol=1e-6)


def test_normals_of_a_fan_take_memory_by_its_faces():
    vertices, faces = fan(20_000, lambda angle: np.sin(5 * angle))
    tracemalloc.start()
    normals = smooth_normals(vertices, faces)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.isfinite(normals).all()
    assert most < 2e8  # one by one: 4e8 pairs of faces, some 10 GB


def test_a_box_comes_to_rest_on_its_faces():
    box = Solid(mesh_of(trimesh.creation.box((0.1, 0.2, 0.3))))
    heights = [np.ptp(box.outline @ r.T, axis=0)[2] for r in resting_rotations(box.outline)]
    assert all(min(abs(h - s) for s in (0.1, 0.2, 0.3)) < 0.01 for h in heights)


def test_texture_lookup_is_bilinear_and_reduced_far_away():
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (64, 1, 3))
    pyramid = Pyramid(ramp)
    u, v = np.array([(10.5 + 0.25) / 64], np.float32), np.array([0.5], np.float32)
    assert pyramid.sample(u, v, np.ones(1, np.float32))[0, 0] == pytest.approx(41, abs=1)
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    far = Pyramid(stripes).sample(
        np.linspace(0, 1, 50, dtype=np.float32), np.full(50, 0.3, np.float32), np.full(50, 4, np.float32)
    )
    assert np.abs(far.astype(int) - 100).max() <= 1  # finer than a pixel: its mean, no moire


def test_mesh_folder_layouts_and_errors(tmp_path):
    shape = trimesh.creation.box((0.1, 0.1, 0.1))
    for place in ("mug/a", "mug/b", "brick"):
        (tmp_path / place).mkdir(parents=True)
        shape.export(tmp_path / place / "model.ply")
    (tmp_path / "notes").mkdir()
    files, left_out = object_files(tmp_path)
    assert not left_out
    assert [(name, instance) for name, instance, _ in files] == [("brick", "brick"), ("mug", "mug/a"), ("mug", "mug/b")]
    assert load_mesh(files[0][2]).uv.shape == (12, 3, 2)
    with pytest.raises(DataError, match=r"no mesh in .*notes.*expected one sub-folder per class"):
        object_files(tmp_path / "notes")
    with pytest.raises(DataError, match="there is no folder"):
        object_files(tmp_path / "nowhere")


def test_every_mesh_of_a_class_folder_is_an_instance(tmp_path):
    for name in ("mug/blue.stl", "mug/red.ply", "mug/red.stl", "mug/parts/handle.stl", "can/google/textured.obj",
                 "can/google/nontextured.ply", "can/tsdf/a.off", "can/tsdf/b.off"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files, left_out = object_files(tmp_path)
    assert [(name, instance, path.name) for name, instance, path in files] == [
        ("can", "can/google", "textured.obj"),
        ("can", "can/tsdf/a", "a.off"),
        ("can", "can/tsdf/b", "b.off"),
        ("mug", "mug/blue", "blue.stl"),
        ("mug", "mug/red", "red.ply"),
    ]
    assert {path.name for path in left_out} == {"nontextured.ply", "red.stl", "handle.stl"}


def test_versions_of_one_scan_are_no_instances(tmp_path, caplog):
    names = (
        "can/poisson/textured.obj",
        "can/google_16k/textured.obj",
        "can/tsdf/textured.obj",
        "mug/poisson/nontextured.stl",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
        trimesh.creation.box((0.1, 0.1, 0.1)).export(tmp_path / name)
    files, left_out = object_files(tmp_path)
    assert [instance for _, instance, _ in files] == ["can/google_16k", "mug/poisson"]
    assert [path.parent.name for path in left_out] == ["poisson", "tsdf"]
    FolderStock(tmp_path).check()
    assert "left out: 2, such as" in caplog.text
    assert f"beside which {tmp_path / 'can/google_16k/textured.obj'} is taken" in caplog.text
    (tmp_path / "can" / "other").mkdir()
    trimesh.creation.box((0.1, 0.1, 0.1)).export(tmp_path / "can" / "other" / "a.stl")
    assert len(object_files(tmp_path)[0]) == 5  # not as YCB has it


def test_meshes_that_cannot_be_used_are_told(tmp_path):
    path = tmp_path / "model.ply"
    trimesh.creation.box((100, 60, 40)).export(path)
    with pytest.raises(DataError, match="measures 100 m; meshes are expected in metres"):
        load_mesh(path)
    path.write_text("not a mesh")
    with pytest.raises(DataError, match=r"model\.ply"):
        load_mesh(path)


@pytest.mark.parametrize(("file", "y_up"), [("a.glb", True), ("a.gltf", True), ("a.ply", False), ("a.obj", False)])
def test_up_is_what_the_standard_of_the_format_says(tmp_path, file, y_up):
    """A blade that is 0.3 m tall, with its tip at the top."""
    blade = np.array([(0, 0, 0), (0.02, 0.05, 0), (0, 0, 0.3)])
    x, y, z = blade.T
    stored = np.stack([x, z, -y], axis=1) if y_up else blade  # the same object with +y up, turned and not mirrored
    trimesh.Trimesh(stored, [[0, 1, 2]], process=False).export(tmp_path / file)
    mesh = load_mesh(tmp_path / file)
    np.testing.assert_allclose(mesh.vertices[mesh.faces[0]], blade, atol=1e-6)


def test_points_that_no_triangle_uses_are_no_part_of_the_object(tmp_path):
    box = trimesh.creation.box((0.1, 0.1, 0.1))
    far = np.vstack([box.vertices, [(1.5, 1.5, 1.5)]])
    trimesh.Trimesh(far, box.faces, process=False).export(tmp_path / "a.ply")
    mesh = load_mesh(tmp_path / "a.ply")
    np.testing.assert_allclose(mesh.bounds, box.bounds, atol=1e-6)
    np.testing.assert_allclose(mesh.vertices[mesh.faces], box.vertices[box.faces], atol=1e-6)


@pytest.fixture
def card(tmp_path):
    """An .obj file: a square with a picture that is red above and green below."""
    from PIL import Image

    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4] = (255, 0, 0)
    picture[4:] = (0, 255, 0)
    (tmp_path / "card").mkdir()
    Image.fromarray(picture).save(tmp_path / "card" / "texture_map.png")
    (tmp_path / "card" / "textured.mtl").write_text("newmtl m\nmap_Kd texture_map.png\nnewmtl n\nmap_Kd unused.png\n")
    (tmp_path / "card" / "textured.obj").write_text(
        "mtllib textured.mtl\nusemtl m\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
        "f 1/1 2/2 3/3\nf 1/1 3/3 4/4\n"
    )
    return tmp_path / "card" / "textured.obj"


def test_a_missing_texture_is_refused(card, caplog):
    FolderStock(card.parents[1]).check()
    assert not caplog.records
    (card.parent / "texture_map.png").write_text("no picture")
    with pytest.raises(DataError, match=r"textured\.obj has the texture texture_map\.png .*which cannot be read"):
        load_mesh(card)
    (card.parent / "texture_map.png").unlink()
    with pytest.raises(DataError, match=r"textured\.obj has the texture texture_map\.png .*which is not there"):
        load_mesh(card)
    with pytest.raises(DataError, match="which is not there"):
        FolderStock(card.parents[1]).check()
    stock = FolderStock(card.parents[1])
    stock.classes = ("another",)  # --classes without it
    stock.check()
    (card.parent / "textured.mtl").unlink()
    FolderStock(card.parents[1]).check()
    assert [record.getMessage().partition(", such")[0] for record in caplog.records] == [
        "meshes of plain colour, or with plain parts: 1"
    ]
    assert len(np.unique(load_mesh(card).texture)) == 1


def test_texture_is_the_right_way_up(card):
    mesh = load_mesh(card)
    uv = mesh.uv[np.linalg.norm(mesh.vertices[mesh.faces] - (0, 1, 0), axis=-1) < 1e-6][0]  # the upper left corner
    np.testing.assert_allclose(uv, (0, 0), atol=1e-6)
    assert (mesh.texture[0, 0] == (255, 0, 0)).all()
