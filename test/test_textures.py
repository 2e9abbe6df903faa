"""Procedural textures: what they look like in numbers, and that a seed means one picture."""

import numpy as np
import pytest

from mmcl_core.errors import ConfigError
from mmcl_core.synth.paint import (
    colour,
    contrast,
    cover,
    finish,
    label,
    mix,
    noise,
    page_edges,
    palette,
    small_print,
)
from mmcl_core.synth.textures import MATERIALS, PLACES, background, texture


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def saturation(picture):
    high, low = picture.max(-1).astype(float), picture.min(-1).astype(float)
    return (high - low) / np.maximum(high, 1)


@pytest.mark.parametrize("kind", sorted(MATERIALS))
def test_a_texture_is_a_function_of_its_seed(kind):
    for size, shape in ((48, (48, 48, 3)), ((32, 80), (32, 80, 3)), ((20, 9), (20, 9, 3))):
        first = texture(kind, rng(5), size)
        assert first.dtype == np.uint8
        assert first.shape == shape
        np.random.seed(1)  # the global generator must play no part
        np.testing.assert_array_equal(first, texture(kind, rng(5), size))
    assert np.abs(texture(kind, rng(5), 48).astype(int) - texture(kind, rng(6), 48)).mean() > 1


@pytest.mark.parametrize(
    "kind", ["plain", "plaster", "laminate", "concrete", "metal", "paper", "wood", "carpet", "weave"]
)
def test_a_texture_keeps_to_the_colour_it_is_given(kind):
    base = np.array([170.0, 90.0, 60.0])
    mean = texture(kind, rng(2), 96, base).reshape(-1, 3).mean(0)
    assert np.abs(mean / mean.sum() - base / base.sum()).max() < 0.06


def test_wrong_names_are_told_with_the_right_ones():
    with pytest.raises(ConfigError, match=r"velvet.*carpet.*wood"):
        texture("velvet", rng(), 16)
    with pytest.raises(ConfigError, match=r"ceiling.*one of table, floor, wall"):
        background(rng(), 16, "ceiling")


def test_noise_repeats_without_a_seam_and_has_the_stated_spread():
    picture = noise(rng(3), (96, 128), (3, 5), 4)
    assert picture.shape == (96, 128)
    assert picture.dtype == np.float32
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert abs(picture.mean() - 0.5) < 0.02
    assert 0.17 < picture.std() < 0.22
    for axis in (0, 1):
        inside = np.abs(np.diff(picture, axis=axis)).mean()
        across = np.abs(np.take(picture, 0, axis) - np.take(picture, -1, axis)).mean()
        assert across < 2 * inside
        # a picture that does not repeat (half of this one) has a far greater step there
        half = np.take(picture, range(picture.shape[axis] // 2), axis)
        assert np.abs(np.take(half, 0, axis) - np.take(half, -1, axis)).mean() > 3 * inside


def test_noise_of_one_octave_has_as_many_blobs_as_asked():
    def crossings(cells):
        return np.mean(
            [np.abs(np.diff(noise(rng(s), (64, 256), (2, cells), 1) > 0.5, axis=1)).sum(1).mean() for s in range(8)]
        )

    few, many = crossings(4), crossings(32)
    assert 5 < many / few < 12


def test_mix_and_finish():
    share = np.array([[0.0, 0.25, 1.0]])
    mixed = mix(np.array([0.0, 100.0, 200.0]), np.array([100.0, 100.0, 0.0]), share)
    np.testing.assert_allclose(mixed[0], [[0, 100, 200], [25, 100, 150], [100, 100, 0]])
    np.testing.assert_array_equal(finish(np.array([[[-3.0, 12.6, 300.0]]])), [[[0, 13, 255]]])


def test_colours_stay_in_their_ranges():
    for seed in range(50):
        drawn = colour(rng(seed), (0.2, 0.4), (0.5, 0.6), (0.0, 0.1))
        assert 0.5 * 255 - 1 <= drawn.max() <= 0.6 * 255 + 1
        assert 0.19 <= float(saturation(drawn[None])[0]) <= 0.41
        assert drawn[0] == drawn.max()  # hues of 0 to 36 degrees: red leads


def test_print_can_be_read_on_its_ground():
    weights = np.array([0.299, 0.587, 0.114])
    for seed in range(60):
        generator = rng(seed)
        ground = colour(generator, (0, 1), (0, 1))
        assert abs(float((contrast(generator, ground) - ground) @ weights)) > 50


@pytest.mark.parametrize("paint", [label, cover, small_print])
def test_prints_have_their_ground_and_something_on_it(paint):
    for seed in range(12):
        colours = palette(rng(seed), 4)
        picture = paint(rng(seed), (120, 90), colours)
        assert picture.shape == (120, 90, 3)
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, paint(rng(seed), (120, 90), palette(rng(seed), 4)))
        assert picture.reshape(-1, 3).std(0).max() > 8  # print has contrast
        edges = np.abs(np.diff(picture.astype(int), axis=1)).max(-1) > 40
        assert 0.005 < edges.mean() < 0.6


def test_print_fits_very_small_pictures():
    for seed in range(20):
        for paint in (
            label,
            lambda r, size: cover(r, size, palette(r, 4)),
            lambda r, size: small_print(r, size, palette(r, 4)),
        ):
            assert paint(rng(seed), (9, 7)).shape == (9, 7, 3)


def test_page_edges_are_lines_along_the_pages():
    picture = page_edges(rng(1), (48, 96)).astype(float).mean(-1)
    assert picture.mean() > 150
    assert np.abs(np.diff(picture, axis=0)).mean() > 2 * np.abs(np.diff(picture, axis=1)).mean()


@pytest.mark.parametrize("place", sorted(PLACES))
def test_backgrounds_are_muted_and_well_exposed(place):
    pictures = np.stack([background(rng(seed), 48, place) for seed in range(150)])
    np.testing.assert_array_equal(pictures[7], background(rng(7), 48, place))
    assert pictures.dtype == np.uint8
    colourful = saturation(pictures).mean((1, 2))
    light = pictures.mean((1, 2, 3))
    assert np.median(colourful) < 0.25
    assert (colourful > 0.5).mean() < 0.12
    assert (colourful > 0.3).mean() > 0.02  # some colour there is
    assert 70 < light.mean() < 215
    assert np.std(light) > 20
    assert ((light < 20) | (light > 252)).mean() < 0.03


def test_tables_are_often_light_and_floors_darker():
    light = {place: np.array([background(rng(s), 32, place).mean() for s in range(150)]) for place in PLACES}
    assert (light["table"] > 175).mean() > 0.15
    assert light["floor"].mean() + 15 < min(light["table"].mean(), light["wall"].mean())
