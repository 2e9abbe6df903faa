"""What is in mesh files comes into the mesh: every material, its picture and its repeats, nodes, and plain colours."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mmcl_core.errors import DataError
from mmcl_core.synth.mesh_files import check_textures, load_mesh
from mmcl_core.synth.raycast import Camera, Placed, Solid, cast
from mmcl_core.synth.shade import MeshSkin, surface
from mmcl_core.synth.stock import FolderStock

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("embreex")

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)


def picture(left, right):
    """8 x 8 pixels of one colour beside another."""
    from PIL import Image

    pixels = np.empty((8, 8, 3), np.uint8)
    pixels[:, :4], pixels[:, 4:] = left, right
    return Image.fromarray(pixels)


def from_above(mesh):
    """What a camera high above sees of a mesh: points [N, 3] and colours [N, 3], 450 pixels a metre."""
    (low, high), down = mesh.bounds, np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])
    centre = (low + high) / 2
    camera = Camera(4500.0, 4500.0, 99.5, 99.5, down, np.array([centre[0], centre[1], high[2] + 10]))
    rays, placed = camera.rays(200, 200), [Placed(Solid(mesh), np.eye(3), np.zeros(3))]
    hits = cast(camera.position, rays, placed)
    seen = surface(camera, rays, hits, placed, [MeshSkin(mesh)], [], [])
    return seen.points.T[hits.owner == 0], seen.colour[hits.owner == 0]


def plain_colours(mesh):
    """The colours that are seen of a mesh from above."""
    return {tuple(colour) for colour in from_above(mesh)[1].tolist()}


def quads(*squares):
    """Lines of an .obj file: squares of 0.1 m in a row, each (material, uv of its lower left and upper right)."""
    lines, count = [], 0
    for k, (material, places) in enumerate(squares):
        x = k * 0.1
        lines += [f"v {x + a} {b} 0" for a, b in ((0, 0), (0.1, 0), (0.1, 0.1), (0, 0.1))]
        corners = [f"{4 * k + j + 1}" for j in range(4)]
        if places is not None:
            (u0, v0), (u1, v1) = places
            lines += [f"vt {u0} {v0}", f"vt {u1} {v0}", f"vt {u1} {v1}", f"vt {u0} {v1}"]
            corners = [f"{corner}/{count + j + 1}" for j, corner in enumerate(corners)]
            count += 4
        lines += [f"usemtl {material}", *("f " + " ".join(corners[j] for j in face) for face in ((0, 1, 2), (0, 2, 3)))]
    return "\n".join(lines) + "\n"


@pytest.fixture
def library(tmp_path):
    """Materials: A red beside blue, B green beside blue, C plain yellow, D without any colour."""
    picture(RED, BLUE).save(tmp_path / "a.png")
    picture(GREEN, BLUE).save(tmp_path / "b.png")
    (tmp_path / "m.mtl").write_text(
        "newmtl A\nmap_Kd a.png\nnewmtl B\nmap_Kd b.png\nnewmtl C\nKd 1 1 0\nnewmtl D\nNs 1\n"
    )
    return tmp_path


def test_every_material_keeps_its_picture_with_its_repeats(library):
    path = library / "a.obj"
    squares = (("A", ((0, 0), (4, 4))), ("B", ((1.25, -2), (2.25, -1))), ("C", None), ("A", ((5, 5), (6, 6))))
    path.write_text("mtllib m.mtl\n" + quads(*squares))
    points, colours = from_above(load_mesh(path))
    square, along = np.floor(points[:, 0] / 0.1).astype(int), points[:, 0] / 0.1 % 1
    assert np.bincount(square).tolist() == pytest.approx([2025] * 4, rel=0.05)
    u = np.select([square == 0, square == 1, square == 3], [4 * along, along + 1.25, along])
    clear = np.abs(u * 2 - np.round(u * 2)) > 0.26  # beyond the blend of one texel with the next
    expected = np.where((u % 1 < 0.5)[:, None], np.where(square[:, None] == 1, GREEN, RED), BLUE)
    expected[square == 2] = YELLOW
    clear |= square == 2
    assert clear.mean() > 0.4
    np.testing.assert_array_equal(colours[clear], expected[clear])


def test_parts_with_one_picture_share_it(library):
    path = library / "a.obj"
    path.write_text("mtllib m.mtl\n" + quads(("A", ((0, 0), (1, 1))), ("B", ((0, 0), (1, 1)))))
    picture(RED, BLUE).save(library / "b.png")
    mesh = load_mesh(path)
    assert not mesh.others
    assert not mesh.shows.any()


def boxes(path, *visuals):
    """A scene of boxes of 0.1 m, node k moved by 0.2 k m along x."""
    scene = trimesh.Scene()
    for k, visual in enumerate(visuals):
        box = trimesh.creation.box((0.1, 0.1, 0.1))
        box.visual = visual
        scene.add_geometry(box, transform=trimesh.transformations.translation_matrix((0.2 * k, 0, 0)))
    scene.export(path)
    return load_mesh(path)


def material(uv=True, **content):
    place = np.full((8, 2), 0.25) if uv else None
    return trimesh.visual.TextureVisuals(uv=place, material=trimesh.visual.material.PBRMaterial(**content))


def test_nodes_are_in_their_places_with_their_colours(tmp_path):
    mesh = boxes(
        tmp_path / "a.glb",
        material(baseColorTexture=picture(RED, BLUE)),
        material(baseColorFactor=[0, 0, 255, 255]),
        material(baseColorTexture=picture(GREEN, BLUE)),
    )
    np.testing.assert_allclose(mesh.bounds, [(-0.05, -0.05, -0.05), (0.45, 0.05, 0.05)], atol=1e-6)
    points, colours = from_above(mesh)
    box = np.round(points[:, 0] / 0.2).astype(int)
    np.testing.assert_array_equal(colours, np.array([RED, BLUE, GREEN])[box])


def test_a_mirrored_node_is_no_more_inside_out_than_its_original(tmp_path):
    scene = trimesh.Scene()
    half = trimesh.creation.uv_sphere(0.05, count=[12, 12])
    for side in (1.0, -1.0):
        scene.add_geometry(
            half, transform=trimesh.transformations.translation_matrix((0.1 * side, 0, 0)) @ np.diag((side, 1, 1, 1))
        )
    scene.export(tmp_path / "a.glb")
    mesh = load_mesh(tmp_path / "a.glb")
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    outwards = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    middles = corners.mean(1)
    middles[:, 0] -= np.where(middles[:, 0] > 0, 0.1, -0.1)
    assert ((outwards * middles).sum(1) > 0).all()


def test_base_colours_multiply_pictures_in_linear_light(tmp_path):
    half = [128, 128, 128, 255]  # 0.5 of the light, 188 in sRGB
    white = picture((255,) * 3, (255,) * 3)
    assert plain_colours(boxes(tmp_path / "a.glb", material(baseColorTexture=white, baseColorFactor=half))) == {
        (188,) * 3
    }
    assert plain_colours(boxes(tmp_path / "b.glb", material(baseColorFactor=half))) == {(188,) * 3}
    green = material(baseColorTexture=picture(YELLOW, RED), baseColorFactor=[0, 255, 0, 255])
    assert plain_colours(boxes(tmp_path / "c.glb", green)) == {GREEN}
    assert plain_colours(boxes(tmp_path / "d.glb", material())) == {(255,) * 3}  # by the standard


def test_colours_of_vertices_come_before_that_of_a_material(library):
    corners = "v 0 0 0 1 0 0\nv .1 0 0 1 0 0\nv 0 .1 0 1 0 0\nvt 0 0\n"
    for name, text in (("a", f"mtllib m.mtl\n{corners}usemtl C\nf 1 2 3\n"), ("b", f"{corners}f 1/1 2/1 3/1\n")):
        (library / f"{name}.obj").write_text(text)
        assert plain_colours(load_mesh(library / f"{name}.obj")) == {RED}


@pytest.mark.parametrize(("file", "level"), [("a.glb", 188), ("a.gltf", 188), ("a.ply", 128)])
def test_colours_of_vertices_are_linear_light_where_the_standard_says_so(tmp_path, file, level):
    """By glTF 2.0, section 3.9.2; 0.5 of the light is 188 in sRGB."""
    shape, half = trimesh.creation.box((0.1, 0.1, 0.1)), np.full((8, 4), 128, np.uint8)
    shape.visual.vertex_colors = half
    shape.export(tmp_path / file)
    assert plain_colours(load_mesh(tmp_path / file)) == {(level,) * 3}
    if file == "a.glb":
        shape.visual = material(uv=False, baseColorFactor=[255, 0, 255, 255])
        shape.visual.vertex_attributes["color"] = half
        shape.export(tmp_path / file)
        assert plain_colours(load_mesh(tmp_path / file)) == {(188, 0, 188)}


def test_without_a_colour_a_mesh_is_grey(library):
    places = ((0, 0), (1, 1))
    shape = trimesh.creation.box((0.1, 0.1, 0.1))
    for name in ("a.ply", "a.stl", "a.off", "a.glb"):
        shape.export(library / name)
    for name, text in (
        ("no library", quads(("A", places))),
        ("missing library", "mtllib away.mtl\n" + quads(("A", places))),
        ("without uv", "mtllib away.mtl\n" + quads(("A", None))),
        ("colourless", "mtllib m.mtl\n" + quads(("D", places))),
    ):
        (library / f"{name}.obj").write_text(text)
    for path in [p for p in library.iterdir() if p.suffix not in (".png", ".mtl")]:
        assert plain_colours(load_mesh(path)) == {(150,) * 3}, path.name


def test_colours_that_cannot_be_shown_are_told_by_name(library, caplog):
    (library / "set" / "card").mkdir(parents=True)
    for name in ("a.png", "m.mtl"):
        (library / name).rename(library / "set" / "card" / name)
    text = "mtllib m.mtl\n" + quads(("A", None), ("C", None))
    (library / "set" / "card" / "bare.obj").write_text(text)
    both = material(baseColorTexture=picture(RED, BLUE))
    both.vertex_attributes["color"] = np.full((8, 4), 128, np.uint8)
    (library / "set" / "box").mkdir()
    boxes(library / "set" / "box" / "both.glb", both)
    FolderStock(library / "set").check()
    told = [record.getMessage() for record in caplog.records if record.name.startswith("mmcl")]  # trimesh tells, too
    assert len(told) == 2
    assert "both.glb: " in told[0]
    assert "the picture alone is shown" in told[0]
    assert "bare.obj: A has a picture, but no place in it (uv)" in told[1]


def test_triangles_without_an_area_are_refused(tmp_path):
    path = tmp_path / "line.obj"
    path.write_text("v 0 0 0\nv 0.1 0 0\nv 0.2 0 0\nf 1 2 3\n")
    with pytest.raises(DataError, match="no triangle with an area"):
        load_mesh(path)


def test_classes_without_a_mesh_are_told(tmp_path, caplog):
    for place in ("box", "chair", "lamp/a/b", ".cache", "box/.old", "__MACOSX"):
        (tmp_path / place).mkdir(parents=True)
    for name in ("box/box.stl", "lamp/a/b/lamp.stl", ".cache/no.stl", "box/.old/no.stl", "box/._box.stl",
                 "__MACOSX/a.stl"):  # fmt: skip
        trimesh.creation.box((0.1, 0.1, 0.1)).export(tmp_path / name)
    (tmp_path / "chair" / "chair.fbx").touch()
    stock = FolderStock(tmp_path)
    assert stock.classes == ("box",)
    stock.check()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert told[0].startswith("class folders without a mesh, left out: 2, such as chair; ")


CARD = np.array([(0, 0, 0), (0.1, 0, 0), (0.1, 0.1, 0), (0, 0.1, 0)])


def ply(path, *names):
    """A square with places in its pictures."""
    path.write_text(
        "ply\nformat ascii 1.0\n" + "".join(f"comment TextureFile {name}\n" for name in names) + "element vertex 4\n"
        "property float x\nproperty float y\nproperty float z\nproperty float texture_u\nproperty float texture_v\n"
        "element face 2\nproperty list uchar int vertex_indices\nend_header\n"
        + "".join(f"{x} {y} {z} {x * 10} {y * 10}\n" for x, y, z in CARD) + "3 0 1 2\n3 0 2 3\n"
    )  # fmt: skip


def gltf(path, image, **shown):
    """A box with a picture as the file says."""
    boxes(path, material(baseColorTexture=picture(RED, RED)))
    tree = json.loads(path.read_text())
    tree["images"] = [image]
    tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"].update(shown)
    path.write_text(json.dumps(tree))


def test_pictures_in_other_files_are_found_or_missed(library):
    picture(RED, RED).save(library / "red one.png")
    gltf(library / "a.gltf", {"uri": "red%20one.png"})
    ply(library / "b.ply", "red one.png")
    for name in ("a.gltf", "b.ply"):
        assert plain_colours(load_mesh(library / name)) == {RED}
    (library / "red one.png").write_text("no picture")
    for name in ("a.gltf", "b.ply"):
        with pytest.raises(DataError, match=rf"{name} has the texture red.*one\.png, which cannot be read"):
            load_mesh(library / name)
    (library / "red one.png").unlink()
    for name in ("a.gltf", "b.ply"):
        with pytest.raises(DataError, match=rf"{name} has the texture red.*one\.png, which is not there; put it there"):
            load_mesh(library / name)


def test_pictures_that_are_shown_otherwise_are_told_or_refused(library):
    ply(library / "a.ply", "a.png", "b.png")
    assert load_mesh(library / "a.ply").remarks == ("of its 2 pictures b.png alone is shown",)
    gltf(library / "b.gltf", {"uri": "a.png"}, extensions={"KHR_texture_transform": {"scale": [2, 2]}})
    assert "KHR_texture_transform" in load_mesh(library / "b.gltf").remarks[0]
    gltf(library / "b.gltf", {"uri": "a.png"}, texCoord=1)
    assert "the first ones are taken" in load_mesh(library / "b.gltf").remarks[0]
    gltf(library / "c.gltf", {"uri": "a.ktx2", "mimeType": "image/ktx2"})
    with pytest.raises(DataError, match=r"c\.gltf has a texture of the kind KTX2, which cannot be read"):
        load_mesh(library / "c.gltf")
    for image, shown in ((7, {}), ({"uri": 7}, {}), ({"uri": "a.png"}, {"extensions": 7})):
        gltf(library / "c.gltf", image, **shown)
        with pytest.raises(DataError, match=r"cannot read the mesh .*c\.gltf"):
            load_mesh(library / "c.gltf")
    (library / "d.glb").write_bytes(b"glTF" + bytes(30))
    with pytest.raises(DataError, match=r"cannot read the mesh .*d\.glb"):
        load_mesh(library / "d.glb")


def test_pictures_are_found_by_paths_with_backslashes(library):
    (library / "sub").mkdir()
    (library / "a.png").rename(library / "sub" / "a.png")
    (library / "m.mtl").write_text("newmtl A\nmap_Kd sub\\a.png\n")
    (library / "a.obj").write_text("mtllib m.mtl\n" + quads(("A", ((0, 0), (1, 1)))))
    assert {RED, BLUE} <= plain_colours(load_mesh(library / "a.obj"))


def test_a_material_that_is_not_in_its_file_is_told(library):
    (library / "a.obj").write_text("mtllib m.mtl\n" + quads(("A", None), ("a", None)))
    assert check_textures(library / "a.obj") == "its material file m.mtl has no material a"


@pytest.mark.parametrize("place", ["nan", "inf", "1e30"])
def test_points_without_a_place_in_their_picture_are_told_and_seen(library, place):
    text = "mtllib m.mtl\n" + quads(("A", ((0, 0), (1, 1))), ("A", ((0, 0), (place, 1))))
    (library / "a.obj").write_text(text)
    mesh = load_mesh(library / "a.obj")
    assert mesh.remarks == ("A has no place in its picture (uv) for 2 points: its middle is shown",)
    assert {RED, BLUE} <= plain_colours(mesh)


def test_corners_that_are_no_numbers_are_refused(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 0.1 0 0\nv nan 0.1 0\nf 1 2 3\n")
    with pytest.raises(DataError, match="corners that are no finite numbers"):
        load_mesh(tmp_path / "a.obj")


def test_a_mesh_with_coordinates_of_a_map_keeps_its_shape(tmp_path):
    shape = trimesh.creation.icosphere(2, 0.05)
    shape.apply_translation((5e5, 4e6, 100.0))
    shape.export(tmp_path / "a.obj", digits=9)
    np.testing.assert_allclose(np.linalg.norm(load_mesh(tmp_path / "a.obj").vertices, axis=1), 0.05, atol=1e-6)


def test_pictures_of_16_bits_keep_their_levels(library):
    from PIL import Image

    Image.fromarray(np.full((8, 8), 100 * 257, np.uint16)).save(library / "a.png")
    (library / "a.obj").write_text("mtllib m.mtl\n" + quads(("A", ((0, 0), (1, 1)))))
    assert plain_colours(load_mesh(library / "a.obj")) == {(100,) * 3}


def test_transparent_materials_are_told(tmp_path):
    leaf = picture(RED, GREEN).convert("RGBA")
    clear = leaf.copy()
    clear.putpixel((0, 0), (0, 0, 0, 0))
    for alpha_mode, image, factor, told in (
        ("MASK", clear, None, True),
        ("BLEND", None, [255, 0, 0, 60], True),
        ("BLEND", leaf, [255, 0, 0, 255], False),
        ("OPAQUE", clear, [255, 0, 0, 60], False),
    ):
        kind = material(alphaMode=alpha_mode, baseColorTexture=image, baseColorFactor=factor)
        remarks = boxes(tmp_path / "a.glb", kind).remarks
        assert [remark.partition(" is ")[2] for remark in remarks] == (
            ["transparent, in parts at least: it is shown opaque"] if told else []
        )


def test_whole_numbers_for_shares_of_one_are_refused(library):
    path = library / "a.gltf"
    for name in ("POSITION", "TEXCOORD_0"):
        gltf(path, {"uri": "a.png"})
        load_mesh(path)
        tree = json.loads(path.read_text())
        tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"][name]]["normalized"] = True
        path.write_text(json.dumps(tree))
        with pytest.raises(DataError, match=r"a\.gltf has points or uv in whole numbers \(normalized\); export it"):
            load_mesh(path)


def test_what_is_packed_so_that_it_is_not_read_is_refused(library):
    path = library / "a.gltf"
    for change, told in (
        ({"extensionsRequired": ["EXT_meshopt_compression"]}, r"is compressed \(EXT_meshopt.*export it without"),
        ({"mode": 6}, "has triangles as fans"),
    ):
        gltf(path, {"uri": "a.png"})
        tree = json.loads(path.read_text())
        (tree["meshes"][0]["primitives"][0] if "mode" in change else tree).update(change)
        path.write_text(json.dumps(tree))
        with pytest.raises(DataError, match=rf"the mesh .*a\.gltf {told}"):
            load_mesh(path)


def test_colours_of_faces_that_are_no_triangles_are_refused_and_those_of_off_files_told(tmp_path):
    points, square = "".join(f"{x} {y} {z}\n" for x, y, z in CARD), "4 0 1 2 3"
    ply(tmp_path / "a.ply")
    head = (tmp_path / "a.ply").read_text().replace("face 2", "face 1").partition("end_header")[0]
    head = head.replace("property float texture_u\nproperty float texture_v\n", "")
    colours = "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    (tmp_path / "a.ply").write_text(f"{head}{colours}end_header\n{points}{square} 200 100 50\n")
    with pytest.raises(DataError, match=r"a\.ply: its faces have colours .*; if it has other faces than"):
        load_mesh(tmp_path / "a.ply")
    (tmp_path / "a.off").write_text("COFF\n4 1 0\n" + points.replace("\n", " 200 100 50 255\n") + square)
    assert load_mesh(tmp_path / "a.off").remarks == ("colours of points in .off files are not read: it is grey",)


def test_the_check_of_meshes_has_a_progress_bar(tmp_path, monkeypatch):
    (tmp_path / "box").mkdir()
    for name in ("a", "b"):
        trimesh.creation.box((0.1, 0.1, 0.1)).export(tmp_path / "box" / f"{name}.stl")
    seen = []
    monkeypatch.setattr("mmcl_core.synth.stock.progress_bar", lambda items, **look: seen.append(look["total"]) or items)
    FolderStock(tmp_path).check()
    assert seen == [2]
