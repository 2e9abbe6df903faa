"""Models of the sensors: a cheap colour camera, and depth cameras of three kinds.

=========  ===========================================================================================================
kind       what it is like
=========  ===========================================================================================================
xtion      structured light (Xtion, Kinect 1): steps of an eighth of a pixel, shadows of the projector
stereo     two infrared cameras and a pattern (RealSense D400): a short base, hence more noise, in patches; soft edges
tof        time of flight (Kinect 2): fine and smooth, readings that fly between near and far at edges, dark things lost
=========  ===========================================================================================================

A depth camera measures disparity ``d = F B / z`` between camera and projector. An error of d by e
becomes an error of z by ``z^2 e / (F B)``, and rounding d to eighths of a pixel becomes steps that grow
with z^2. It sees nothing where the projector does not reach (a shadow on one side of things), at steps
of depth, on surfaces at a grazing angle, and on dark or shiny ones. Time of flight is described in the same
terms, which hold for objects a metre away.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mmcl_core.synth.shade import srgb

__all__ = ["DEPTH_CAMERAS", "ColourCamera", "DepthCamera", "to_millimetres"]

#: Kinds of depth cameras, see above.
DEPTH_CAMERAS = ("xtion", "stereo", "tof")

_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
_SQUARE = np.ones((3, 3), np.uint8)
_VOID = 20.0  # metres that stand for nothing at all
_CURVE = 4096  # entries of a tone curve, over linear light 0 to 2


@dataclass(frozen=True)
class ColourCamera:
    """Settings of the colour camera for one picture.

    Attributes:
        exposure: linear level that the mean of the scene is brought to.
        balance: gains of red, green, blue.
        saturation: 1 leaves colours, more makes them stronger.
        contrast: 0 the plain sRGB curve, 1 a strong S.
        blur: deviation of the lens blur in pixels of the imager.
        shot, read: noise, as variance per unit of light and deviation in the dark.
        sharpen: strength of the camera's own sharpening, on the pixels of the crop.
        jpeg: quality of compression; 0 for none.
    """

    exposure: float
    balance: tuple[float, float, float]
    saturation: float
    contrast: float
    blur: float
    shot: float
    read: float
    sharpen: float
    jpeg: int

    @classmethod
    def draw(cls, rng: np.random.Generator, spread: float = 1.0) -> ColourCamera:
        """A camera from the range of real ones; ``spread``: from a range so many times as wide."""
        red, blue = np.exp(rng.normal(0, 0.08 * spread, 2))
        widest = max(spread, 1.0)
        return cls(
            exposure=float(np.clip(0.36 * np.exp(rng.normal(0, 0.33 * spread)), 0.14 / widest, 0.75)),
            balance=(float(red), 1.0, float(blue)),
            saturation=max(_between(rng, 0.9, 1.7, spread), 0.0),
            contrast=max(_between(rng, 0.1, 1.5, spread), 0.0),
            blur=max(_between(rng, 0.35, 0.95, spread), 0.2),
            shot=float(np.exp(_between(rng, np.log(1.5e-4), np.log(5e-3), spread))),
            read=float(np.exp(_between(rng, np.log(1e-3), np.log(1.5e-2), spread))),
            sharpen=max(_between(rng, -0.4, 1.8, spread), 0.0),
            jpeg=int(np.clip(76 + spread * (int(rng.integers(55, 97)) - 76), 20, 96)) if rng.random() < 0.5 else 0,
        )

    def photograph(self, light: np.ndarray, level: float, cell: float, rng: np.random.Generator) -> np.ndarray:
        """The picture of some light.

        Args:
            light: float32 [H, W, 3], linear.
            level: linear light of a white surface of the scene; steadies the exposure when the crop is all dark.
            cell: pixels of the imager that one pixel here stands for (blur, noise and what compression spoils
                shrink with it).
            rng: source of the noise.

        Returns:
            uint8 [H, W, 3], RGB.
        """
        cell = max(cell, 1.0)
        light = cv2.GaussianBlur(light, (0, 0), max(self.blur / cell, 0.45))
        luma = light @ _LUMA
        gain = self.exposure / (0.4 * float(luma.mean()) + 0.6 * 0.3 * level)
        gain = min(gain, 1.7 / max(float(np.percentile(luma, 95)), 1e-6))
        mix = np.float32(self.saturation) * np.eye(3, dtype=np.float32) + np.float32(1 - self.saturation) * _LUMA
        light = light @ (mix * (np.array(self.balance, np.float32) * np.float32(gain))[:, None]).T
        grain = cv2.blur(rng.standard_normal(light.shape, np.float32), (2, 2)) * np.float32(1.6 / cell)
        light += grain * np.sqrt(np.maximum(light, 0) * np.float32(self.shot) + np.float32(self.read**2))
        index = np.clip(light * np.float32(_CURVE / 2), 0, _CURVE - 1).astype(np.int32)
        picture: np.ndarray = self._curve().take(index)
        if self.sharpen > 0:
            soft = cv2.GaussianBlur(picture, (0, 0), 1.0)  # of the crop: makes up for rays that see soft textures
            picture = cv2.addWeighted(picture, 1 + self.sharpen, soft, -self.sharpen, 0)
        if self.jpeg:
            picture = _compressed(picture, self.jpeg, cell)
        return np.asarray(picture)

    def _curve(self) -> np.ndarray:
        x = np.linspace(0, 2, _CURVE)
        x = np.maximum(x - 0.012 * self.contrast, 0)  # hard contrast swallows the darkest tones
        x = np.where(x < 0.7, x, 0.7 + 0.3 * np.tanh((x - 0.7) / 0.45) / np.tanh(1.3 / 0.45))  # a soft shoulder
        y = srgb(x)
        y = y + self.contrast * 0.5 * (y * y * (3 - 2 * y) - y)
        return np.clip(y * 255 + 0.5, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class DepthCamera:
    """Settings of the depth camera for one picture.

    Attributes:
        focal: its focal length in its own pixels.
        base: metres between camera and projector.
        shadow: how much of the projector's shadow is left open (drivers fill some of it), in [0, 1].
        side: +1 where the projector is to the right of the camera (shadows fall on the left of things), else -1.
        colour_base: metres between the camera and the colour camera, whose view the depth is given in.
        white, drift: deviation of the disparity error, from pixel to pixel and over patches, in pixels.
        patch: size of these patches (deviation of a Gaussian) in its pixels.
        step: disparities are rounded to multiples of this many pixels; 0: not rounded.
        smooth: whether the driver smooths the result.
        wiggle: how far edges run astray, in its pixels.
        edge: share of holes on the near side of a step in depth (the far side is always lost).
        flying: share of a step in depth that reads as something in between.
        dark, grazing, shiny: how easily such surfaces are lost; 0 never.
        nearest, farthest: range in metres.
    """

    focal: float = 570.0
    base: float = 0.075
    shadow: float = 1.0
    side: int = 1
    colour_base: float = 0.025
    white: float = 0.03
    drift: float = 0.05
    patch: float = 3.0
    step: float = 0.125
    smooth: bool = False
    wiggle: float = 0.7
    edge: float = 0.15
    flying: float = 0.0
    dark: float = 1.0
    grazing: float = 2.0
    shiny: float = 1.0
    nearest: float = 0.35
    farthest: float = 6.0

    @classmethod
    def draw(cls, rng: np.random.Generator, spread: float = 1.0, kind: str = "xtion") -> DepthCamera:
        """A camera of a kind of :data:`DEPTH_CAMERAS`; ``spread``: from a range so many times as wide."""
        return {"xtion": cls._xtion, "stereo": cls._stereo, "tof": cls._time_of_flight}[kind](rng, spread)

    @classmethod
    def _xtion(cls, rng: np.random.Generator, spread: float) -> DepthCamera:
        return cls(
            focal=float(rng.uniform(525, 600)),
            shadow=min(max(_between(rng, 0.1, 1.0, spread), 0.0), 1.5),
            side=1 if rng.random() < 0.5 else -1,
            white=max(_between(rng, 0.01, 0.06, spread), 0.0),
            drift=max(_between(rng, 0.02, 0.09, spread), 0.0),
            step=0.125 if rng.random() < 0.6 else 0.0,
            smooth=bool(rng.random() < 0.6),
            wiggle=max(_between(rng, 0.2, 1.1, spread), 0.0),
            edge=max(_between(rng, 0.0, 0.45, spread), 0.0),
            dark=max(_between(rng, -1.0, 3.5, spread), 0.0),
            grazing=max(_between(rng, 0.7, 2.6, spread), 0.0),
            shiny=max(_between(rng, -1.0, 2.5, spread), 0.0),
            farthest=max(_between(rng, 3.0, 8.0, spread), 1.5),
        )

    @classmethod
    def _stereo(cls, rng: np.random.Generator, spread: float) -> DepthCamera:
        return cls(
            focal=float(rng.uniform(380, 650)),
            base=float(rng.uniform(0.05, 0.055)),
            shadow=min(max(_between(rng, 0.4, 1.0, spread), 0.0), 1.5),
            side=1 if rng.random() < 0.5 else -1,
            colour_base=0.015,
            white=max(_between(rng, 0.005, 0.04, spread), 0.0),
            drift=max(_between(rng, 0.03, 0.14, spread), 0.0),
            patch=max(_between(rng, 2.0, 5.0, spread), 1.0),
            step=0.03125 if rng.random() < 0.7 else 0.0,
            smooth=bool(rng.random() < 0.7),
            wiggle=max(_between(rng, 0.4, 1.6, spread), 0.0),
            edge=max(_between(rng, 0.0, 0.2, spread), 0.0),
            flying=max(_between(rng, -0.2, 0.4, spread), 0.0),
            dark=max(_between(rng, -1.0, 1.5, spread), 0.0),
            grazing=max(_between(rng, 0.3, 2.0, spread), 0.0),
            shiny=max(_between(rng, -0.5, 2.5, spread), 0.0),
            nearest=0.25,
            farthest=max(_between(rng, 2.5, 9.0, spread), 1.5),
        )

    @classmethod
    def _time_of_flight(cls, rng: np.random.Generator, spread: float) -> DepthCamera:
        return cls(
            focal=float(rng.uniform(360, 510)),
            base=0.1,  # of no camera: a disparity error of 0.05 pixels is 1.2 mm at one metre
            shadow=0.0,
            side=1 if rng.random() < 0.5 else -1,
            colour_base=float(rng.uniform(0.03, 0.055)),
            white=max(_between(rng, 0.01, 0.12, spread), 0.0),
            drift=max(_between(rng, 0.01, 0.1, spread), 0.0),
            patch=max(_between(rng, 2.0, 8.0, spread), 1.0),
            step=0.0,
            smooth=bool(rng.random() < 0.5),
            wiggle=max(_between(rng, 0.0, 0.5, spread), 0.0),
            edge=max(_between(rng, -0.1, 0.25, spread), 0.0),
            flying=max(_between(rng, 0.0, 0.8, spread), 0.0),
            dark=max(_between(rng, 0.0, 4.5, spread), 0.0),
            grazing=max(_between(rng, 0.0, 2.2, spread), 0.0),
            shiny=max(_between(rng, -1.0, 2.0, spread), 0.0),
            nearest=0.4,
            farthest=max(_between(rng, 3.0, 8.0, spread), 1.5),
        )

    def sense(
        self,
        z: np.ndarray,
        facing: np.ndarray,
        brightness: np.ndarray,
        gloss: np.ndarray,
        focal: float,
        size: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """What the camera reports of a square window.

        Args:
            z: float32 [R, R], true depth in metres (infinite: nothing there).
            facing: float32 [R, R], cosine between the surface and the direction to the camera.
            brightness: float32 [R, R], reflectance in [0, 1].
            gloss: float32 [R, R], in [0, 1].
            focal: focal length of this window in its pixels.
            size: side of the result.
            rng: source of the noise.

        Returns:
            uint16 [size, size], millimetres, 0 = no reading.
        """
        grid = int(np.clip(round(z.shape[0] * self.focal / focal), 24, size))
        focal = focal * grid / z.shape[0]
        sharp = focal / self.focal  # window pixels per sensor pixel; below 1 the sensor is finer than the window
        at = self._astray(z.shape[0], grid, sharp, rng)
        near = [
            cv2.remap(a, *at, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
            for a in (z, facing, brightness, gloss)
        ]
        z = np.minimum(near[0], np.float32(_VOID))
        if sharp > 0.5:
            z = cv2.medianBlur(z, 5 if sharp > 0.8 else 3)
        lost = self._hidden(z, focal) | self._steps(z, sharp, rng) | self._weak(near[1:], sharp, rng)
        if self.flying:
            z, lost = self._fly(z, lost, rng)
        lost |= (z < self.nearest) | (z > self.farthest) | (z >= _VOID)
        return to_millimetres(*_enlarge(self._measure(z, sharp, rng), ~lost, size, rng))

    def _astray(self, rows: int, grid: int, sharp: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Where each pixel of the sensor looks in the window: regular, but for errors of registration and matching."""
        place = (np.arange(grid, dtype=np.float32) + 0.5) * (rows / grid) - 0.5
        amount = np.float32(self.wiggle * sharp * rows / grid)
        shift = rng.normal(0, 0.6, 2) * amount
        wave = cv2.GaussianBlur(rng.standard_normal((grid, grid, 2), np.float32), (0, 0), 1.0) * 3.0
        x = place[None] + wave[..., 0] * amount + np.float32(shift[0])
        y = place[:, None] + wave[..., 1] * amount + np.float32(shift[1])
        return x, y

    def _hidden(self, z: np.ndarray, focal: float) -> np.ndarray:
        """Points the projector does not reach, or that the depth camera does not see but the colour camera does."""
        column = np.arange(z.shape[1], dtype=np.float32)[None]
        lost = np.zeros(z.shape, bool)
        for base, side in ((self.base * self.shadow, self.side), (self.colour_base, -self.side)):
            # seen from a point to the right, columns keep their order unless something nearer on the right covers them
            flip = slice(None, None, -1) if side > 0 else slice(None)
            seen = (column if side > 0 else -column) - np.float32(focal * base) / z
            least = np.minimum.accumulate(seen[:, flip], axis=1)[:, flip]
            lost |= seen > least + 0.75
        return lost

    def _steps(self, z: np.ndarray, sharp: float, rng: np.random.Generator) -> np.ndarray:
        """Holes along steps of depth: the far side, and in places the near side too."""
        low, high, step = _nearby(z)
        far = z > (low + high) * 0.5
        patch = cv2.GaussianBlur(rng.standard_normal(z.shape, np.float32), (0, 0), 1.5) * 5.0
        lost = step & (far | (patch > np.float32(1.3 - 2.6 * self.edge)))
        if sharp > 0.5:  # the window is as coarse as the sensor: matching loses one more pixel here and there
            wide = cv2.dilate((step & far).astype(np.uint8), _SQUARE) > 0
            lost |= wide & (z > low + 0.3 * (high - low)) & (patch > 0.3)
        return lost

    def _fly(self, z: np.ndarray, lost: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Depth and what is lost, with readings between near and far at steps."""
        low, high, step = _nearby(z)
        patch = cv2.GaussianBlur(rng.standard_normal(z.shape, np.float32), (0, 0), 1.0) * 3.5
        between = step & (np.abs(patch) < np.float32(1.3 * self.flying))
        mixed = low + (high - low) * rng.random(z.shape, np.float32)
        return np.where(between, mixed, z), lost & ~between

    def _weak(self, look: list[np.ndarray], sharp: float, rng: np.random.Generator) -> np.ndarray:
        """Blobs without a reading where little light comes back, and a few anywhere."""
        facing, brightness, gloss = look
        fine = cv2.GaussianBlur(rng.standard_normal(facing.shape, np.float32), (0, 0), 0.8 + 0.5 * sharp)
        coarse = cv2.GaussianBlur(rng.standard_normal(facing.shape, np.float32), (0, 0), 4.0)
        field = fine * (2.2 + 1.2 * sharp) + coarse * 9.0
        ease = self.grazing * np.clip(1.6 - facing / 0.22, 0, 1.5) + self.dark * np.clip(1 - brightness / 0.045, 0, 1)
        ease += self.shiny * gloss * (0.6 + facing**8)
        return np.asarray(field > 5.0 - 2.0 * ease)

    def _measure(self, z: np.ndarray, sharp: float, rng: np.random.Generator) -> np.ndarray:
        """Depth from a disparity with noise, rounded."""
        strength = self.focal * self.base
        white = rng.standard_normal(z.shape, np.float32)
        width = max(self.patch * sharp, 0.7)  # in pixels of the window; narrower, the next line would not hold
        patch = cv2.GaussianBlur(rng.standard_normal(z.shape, np.float32), (0, 0), width)
        patch *= np.float32(2 * np.sqrt(np.pi) * width)  # to a deviation of one; more where it is wide in the window
        disparity = (
            np.float32(strength) / z + np.float32(self.white) * white * min(sharp, 1.0) + np.float32(self.drift) * patch
        )
        if self.step:
            disparity = np.round(disparity / np.float32(self.step)) * np.float32(self.step)
        measured = np.float32(strength) / np.maximum(disparity, np.float32(0.5))
        if self.smooth:
            soft = cv2.GaussianBlur(measured, (5, 5), 1.2)
            measured = np.where(np.abs(soft - measured) < 0.012 * measured, soft, measured)
        return np.asarray(measured, np.float32)


def to_millimetres(z: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Depth in metres as uint16 millimetres, 0 where it is not valid or does not fit."""
    good = valid & np.isfinite(z) & (z > 0) & (z < 65.5)
    return np.where(good, np.round(np.where(good, z, 0) * 1000), 0).astype(np.uint16)


def _between(rng: np.random.Generator, low: float, high: float, spread: float) -> float:
    """Uniform in the range around the same middle that is ``spread`` times as wide."""
    if spread == 1.0:  # without rounding: a set rendered anew keeps its very bytes
        return float(rng.uniform(low, high))
    middle, half = (low + high) / 2, (high - low) / 2 * spread
    return float(rng.uniform(middle - half, middle + half))


def _compressed(picture: np.ndarray, quality: int, cell: float) -> np.ndarray:
    """What JPEG makes of a picture with ``cell`` times the side that is reduced to this one afterwards.

    An error of ``cell`` times the step of quantisation is as small after averaging; colours, which are kept at half the
    resolution, lose nothing by it from half the side on.
    """
    scale = (5000 / quality if quality < 50 else 200 - 2 * quality) / cell  # of the tables for quantisation, in percent
    quality = round(5000 / scale if scale > 100 else 100 - scale / 2)
    colours = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if cell > 1.5 else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, colours]
    code = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), settings)[1]
    return cv2.cvtColor(np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)


def _nearby(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The least and the greatest depth around each pixel, and whether that is a step: a slope lies between."""
    low, high = cv2.erode(z, _SQUARE), cv2.dilate(z, _SQUARE)
    rise = high - low
    return low, high, (rise > 0.012 + 0.02 * low * low) & (np.abs(low + high - 2 * z) > 0.5 * rise)


def _enlarge(z: np.ndarray, valid: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Resize depth and validity: interpolated inside surfaces, nearest at steps, so that nothing is made up."""
    if z.shape[0] == size:
        return z, valid
    nearest = cv2.resize(z, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    linear = cv2.resize(z, (size, size), interpolation=cv2.INTER_LINEAR)
    even = cv2.dilate(z, _SQUARE) - cv2.erode(z, _SQUARE) < 0.04 * z
    smooth = cv2.resize(even.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST_EXACT) > 0
    share = cv2.resize(valid.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    ragged = share + rng.standard_normal((size, size), np.float32) * 0.06 > 0.5
    return np.where(smooth, linear, nearest), ragged
