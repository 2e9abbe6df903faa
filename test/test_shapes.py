"""Building blocks of procedural objects against the volumes and areas of geometry."""

import numpy as np
import pytest

from mmcl_core.synth.shapes import (
    Part,
    assemble,
    box,
    ellipse,
    loft,
    patch,
    prism,
    revolve,
    rotation,
    rounded,
    smooth,
    sweep,
)


def volume(*parts):
    """Signed volume inside closed surfaces: positive only if all faces look outwards."""
    total = 0.0
    for part in parts:
        for a, b, c in part.vertices[part.faces]:
            total += np.dot(a, np.cross(b, c)) / 6
    return total


def area(*parts):
    return sum(0.5 * np.linalg.norm(np.cross(b - a, c - a)) for part in parts for a, b, c in part.vertices[part.faces])


def test_a_cylinder_of_revolution_and_its_rounded_kin():
    profile = [(0, 0), (0.03, 0), (0.03, 0.1), (0, 0.1)]
    assert volume(revolve(profile, 64)) == pytest.approx(np.pi * 0.03**2 * 0.1, rel=0.01)
    assert volume(revolve(profile, 64, depth=0.5)) == pytest.approx(np.pi * 0.03**2 * 0.05, rel=0.01)
    ball = revolve(rounded(0.02, 0.0, 0.04, 0.02, 24), 64)
    assert volume(ball) == pytest.approx(4 / 3 * np.pi * 0.02**3, rel=0.01)
    assert area(ball) == pytest.approx(4 * np.pi * 0.02**2, rel=0.01)


def test_sweeps_are_closed_and_look_outwards():
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    ring = np.column_stack([0.05 * np.cos(angle), 0.05 * np.sin(angle), 0 * angle])
    torus = sweep(ring, ellipse(24, 0.01, 0.01), (0, 0, 1), closed=True)
    assert volume(torus) == pytest.approx(2 * np.pi**2 * 0.05 * 0.01**2, rel=0.03)
    rod = sweep(np.column_stack([np.linspace(0, 0.2, 5), np.zeros((5, 2))]), ellipse(24, 0.01, 0.01), (0, 0, 1))
    whole = np.pi * 0.01**2 * 0.2
    assert whole < volume(rod) < 1.06 * whole  # the rounded ends are extra
    thinner = sweep(
        np.column_stack([np.linspace(0, 0.2, 5), np.zeros((5, 2))]), ellipse(24, 0.01, 0.01), (0, 0, 1), np.full(5, 0.5)
    )
    assert volume(thinner) == pytest.approx(volume(rod) / 4, rel=0.05)


def test_a_box_has_six_sides_and_rounded_edges():
    sharp, round_ = box((0.1, 0.06, 0.2), 1e-5), box((0.1, 0.06, 0.2), 0.01, divisions=3)
    assert volume(*sharp.values()) == pytest.approx(0.1 * 0.06 * 0.2, rel=0.01)
    assert 0.9 < volume(*round_.values()) / (0.1 * 0.06 * 0.2) < 1
    for axis, (low, high) in enumerate((("left", "right"), ("front", "back"), ("bottom", "top"))):
        half = (0.1, 0.06, 0.2)[axis] / 2
        assert sharp[low].vertices[:, axis].min() == pytest.approx(-half)
        assert sharp[high].vertices[:, axis].max() == pytest.approx(half)
    front = sharp["front"]  # seen from -y its picture stands upright: u with x, v against z
    corner, uv = front.vertices[front.faces].reshape(-1, 3), front.uv.reshape(-1, 2)
    assert np.corrcoef(corner[:, 0], uv[:, 0])[0, 1] > 0.99
    assert np.corrcoef(corner[:, 2], uv[:, 1])[0, 1] < -0.99
    back = sharp["back"]
    assert np.corrcoef(back.vertices[back.faces][..., 0].ravel(), back.uv[..., 0].ravel())[0, 1] < -0.99


def test_a_prism_over_a_hexagon():
    hexagon = ellipse(6, 0.02, 0.02)
    exact = 3 * np.sqrt(3) / 2 * 0.02**2 * 0.004
    assert volume(prism(hexagon, -0.002, 0.002, 1e-6)) == pytest.approx(exact, rel=1e-3)
    assert volume(prism(hexagon + 0.05, -0.002, 0.002, 0.001)) < exact


def test_turning_and_mirroring_keep_the_outside_outside():
    part = revolve([(0, 0), (0.03, 0), (0.01, 0.1), (0, 0.1)], 24).moved(0.1, 0.2, 0.3)
    whole = volume(part)
    assert whole > 0
    assert volume(part.turned(rotation(0, 37) @ rotation(2, 80))) == pytest.approx(whole)
    assert volume(part.turned(np.diag([1.0, -1.0, 1.0]))) == pytest.approx(whole)
    np.testing.assert_allclose(rotation(2, 90) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(rotation(0, 90) @ [0, 1, 0], [0, 0, 1], atol=1e-12)


def test_a_curve_passes_through_its_control_points():
    knots = np.array([(0, 0), (1, 2), (3, 1), (4, 4)], float)
    curve = smooth(knots, 31)
    np.testing.assert_allclose(curve[::10], knots, atol=1e-12)
    assert np.abs(np.diff(curve, 2, axis=0)).max() < 0.2  # without corners


def test_the_picture_of_a_loft_runs_upwards_by_length():
    part = loft(np.stack([np.column_stack([ellipse(8), np.full(8, z)]) for z in (0.0, 1.0, 4.0)]))
    height = part.vertices[part.faces][..., 2]
    np.testing.assert_allclose(part.uv[..., 1], 1 - height / 4)
    np.testing.assert_allclose(part.upended().uv[..., 1], height / 4)
    assert part.uv[..., 0].min() == 0
    assert part.uv[..., 0].max() == 1


def test_assembled_parts_keep_their_own_pictures():
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (200, 200, 0)]
    sizes = [(16, 16), (100, 256), (70, 128), (8, 300)]
    pictures = [np.full((*size, 3), tone, np.uint8) for tone, size in zip(colours, sizes, strict=True)]
    squares = [patch([(k, 0, 5), (k + 1, 0, 5), (k + 1, 0, 6), (k, 0, 6)]) for k in range(4)]
    mesh = assemble([*zip(squares, pictures, strict=True), (squares[0].moved(y=1), pictures[0])])
    assert mesh.vertices[:, 2].min() == 0
    np.testing.assert_allclose(mesh.bounds.sum(0)[:2], 0, atol=1e-6)
    height, width = mesh.texture.shape[:2]
    assert height * width < 2.5 * sum(a * b for a, b in sizes)
    assert (mesh.texture == 10).sum() < 1.3 * 2 * sum(
        a * b for a, b in sizes[:3]
    )  # one picture, used twice, is kept once
    tones = [*colours, colours[0]]
    for number, tone in enumerate(tones):
        corners = mesh.uv[8 * number : 8 * number + 8].reshape(-1, 2) * (width, height)
        for x, y in corners:  # the four pixels that a bilinear look-up blends, and their neighbours
            around = mesh.texture[int(y - 0.5) - 2 : int(y - 0.5) + 4, int(x - 0.5) - 2 : int(x - 0.5) + 4]
            assert (around == tone).all()


def test_faces_that_shrank_to_a_point_are_left_out():
    cone = revolve([(0, 0), (0.02, 0), (0, 0.05)], 16)
    mesh = assemble([(cone, np.zeros((4, 4, 3), np.uint8))])
    assert len(cone.faces) == 64
    assert len(mesh.faces) == 32
    closed = Part(mesh.vertices.astype(float), mesh.faces, mesh.uv)
    assert volume(closed) == pytest.approx(volume(cone), rel=1e-4)
