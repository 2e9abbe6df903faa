"""What .obj files may hold beyond what trimesh takes in: counting backwards, bays, bytes for colours, other text."""

from __future__ import annotations

import numpy as np
import pytest

from mmcl_core.errors import DataError
from mmcl_core.synth.mesh_files import check_textures, load_mesh
from mmcl_core.synth.obj_files import without_options

pytest.importorskip("trimesh")

SQUARE = "v {0} 0 0\nv {1} 0 0\nv {1} 0.1 0\nv {0} 0.1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"


def area(mesh):
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def write_picture(path, colour=(255, 0, 0)):
    from PIL import Image

    Image.new("RGB", (8, 8), colour).save(path)


def is_red(mesh):
    shown = [mesh.texture, *mesh.others]
    return all((shown[k] == (255, 0, 0)).all() for k in np.unique(mesh.shows))


def test_points_are_counted_backwards_from_where_the_face_stands(tmp_path):
    face = "f -4/-4 -3/-3 -2/-2 -1/-1\n"
    (tmp_path / "a.obj").write_text(SQUARE.format(0, 0.1) + face + SQUARE.format(0.3, 0.4) + face)
    mesh = load_mesh(tmp_path / "a.obj")
    np.testing.assert_allclose(mesh.bounds, [(0, 0, 0), (0.4, 0.1, 0)], atol=1e-6)
    assert area(mesh) == pytest.approx(0.02)


@pytest.mark.parametrize("start", range(6))
@pytest.mark.parametrize("way", [1, -1])
def test_polygons_with_a_bay_leave_it_open(tmp_path, start, way):
    corners = np.roll([(0, 0), (0.2, 0), (0.2, 0.2), (0.1, 0.2), (0.1, 0.1), (0, 0.1)], start, axis=0)[::way]
    lines = [f"v {x} 0.05 {z}" for x, z in corners] + [f"vt {5 * x} {5 * z}" for x, z in corners]
    lines += ["f " + " ".join(f"{k + 1}/{k + 1}" for k in range(6)), "v 0 0 0", "v 0.1 0 0", "v 0 0.1 0", "f 7 8 9"]
    (tmp_path / "a.obj").write_text("\n".join(lines))
    assert area(load_mesh(tmp_path / "a.obj")) == pytest.approx(0.03 + 0.005)


def test_a_star_of_many_points_is_filled_and_no_more(tmp_path):
    angle, radius = np.arange(60) * np.pi / 30, np.where(np.arange(60) % 2, 0.05, 0.1)
    lines = [f"v {x:.9f} {y:.9f} 0" for x, y in zip(radius * np.cos(angle), radius * np.sin(angle), strict=True)]
    (tmp_path / "a.obj").write_text("\n".join([*lines, "f " + " ".join(str(k + 1) for k in range(60))]))
    assert area(load_mesh(tmp_path / "a.obj")) == pytest.approx(30 * 0.05 * 0.1 * np.sin(np.pi / 30))


@pytest.mark.parametrize(("red", "grey"), [("200", "100"), ("200.0", "100.0"), ("0.78431", "0.39216")])
def test_colours_of_points_may_be_bytes(tmp_path, red, grey):
    points = "".join(f"v {x} {y} 0 {red} {grey} {grey}\n" for x, y in ((0, 0), (0.1, 0), (0, 0.1)))
    (tmp_path / "a.obj").write_text(points + "f 1 2 3\n")
    np.testing.assert_allclose(load_mesh(tmp_path / "a.obj").texture[0, 0], (200, 100, 100), atol=1)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "# Gr\u00f6\u00dfe, mtllib is below, usemtl no\n".encode("latin-1") + text,
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b" ", b"\t"),
        lambda text: text.replace(b"\n", b"\n  "),
        lambda text: text.replace(b"\n", b" # so\n").replace(b".mtl # so", b".mtl").replace(b"red # so", b"red"),
        lambda text: text.replace(b"usemtl red", b"usemtl  red"),
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b" 3/3", b" \\\n3/3"),
    ],
)
def test_text_may_be_written_otherwise(tmp_path, change):
    write_picture(tmp_path / "red.png")
    (tmp_path / "m.mtl").write_bytes(b"\xef\xbb\xbf# gr\xfcn\r\n\tnewmtl red\r\n\tmap_Kd red.png\r\n")
    text = "mtllib m.mtl\nusemtl red\n" + SQUARE.format(0, 0.1) + "f 1/1 2/2 3/3 4/4\n"
    (tmp_path / "a.obj").write_bytes(change(text.encode()))
    assert check_textures(tmp_path / "a.obj") == ""
    mesh = load_mesh(tmp_path / "a.obj")
    assert is_red(mesh)
    assert area(mesh) == pytest.approx(0.01)


def test_a_comment_behind_a_plain_colour_is_none_of_it(tmp_path):
    (tmp_path / "m.mtl").write_text("newmtl red\nKd 1 0 0  # bright\n")
    (tmp_path / "a.obj").write_text("mtllib m.mtl\nusemtl red\n" + SQUARE.format(0, 0.1) + "f 1/1 2/2 3/3 4/4\n")
    assert load_mesh(tmp_path / "a.obj").texture[0, 0].tolist() == [255, 0, 0]


def test_pictures_are_found_behind_options(tmp_path):
    path = tmp_path / "a.obj"
    path.write_text("mtllib m.mtl\nusemtl red\n" + SQUARE.format(0, 0.1) + "f 1/1 2/2 3/3 4/4\n")
    (tmp_path / "m.mtl").write_text("newmtl red\nmap_Kd -clamp on -s 2.0 2.0 1.0 a red.png\n")
    with pytest.raises(DataError, match=r"a\.obj has the texture a red\.png \(m\.mtl\), which is not there"):
        load_mesh(path)
    write_picture(tmp_path / "a red.png")
    assert is_red(load_mesh(path))
    assert load_mesh(path).remarks == ("-s 2.0 2.0 1.0 of map_Kd in m.mtl is not looked at",)
    write_picture(tmp_path / "-clamp on -s 2.0 2.0 1.0 a red.png", (0, 0, 255))  # of the whole name, if there is one
    assert not is_red(load_mesh(path))


@pytest.mark.parametrize(
    ("value", "name", "moved"),
    [
        ("a.png", "a.png", ""),
        ("-o 0.5 -mm 0 1 -type sphere my a.png", "my a.png", "-o 0.5"),
        ("-texres 512 -bm 1.5 -imfchan r -t 1 1 1 2.png", "2.png", "-t 1 1 1"),
        ("-so.png", "-so.png", ""),
    ],
)
def test_options_before_a_name(value, name, moved):
    assert without_options(value) == (name, moved)
