"""How often does a template matcher solve the slider? Serious OpenCV against its pictures: `make bench-slider`.

It knows what a bot knows (the scene, the piece with its outline, the row) and what a bot's author can read in our
source (how far shapes are turned and stretched). Run in a venv of its own, on pictures that bench/slider.py made.

edges      Canny edges of the scene against the piece's outline (normed cross-correlation of both, blurred)
gradient   strength of the gradient, over all colours, against the outline
oriented   the gradient across the outline, whichever way (a structure tensor against the outline's normals)
chamfer    distances to the nearest Canny edge along the outline
region     colour inside the outline against colour around it, by how much either varies (Fisher's ratio in Lab)
variance   likewise, of the local variance: how rough it is inside and around
texture    the piece's own texture in its mask, normed cross-correlation
all        the sum of all of these but the texture, each in standard deviations
three      the sum of edges, oriented and region
gallery    three, less what pieces of other pictures score at the same place, on average: is it this shape, and no other?
All but the texture try every turn and size that a shape may have. `floor`: one of the shapes, drawn by lot.
"""

import json
import random
import sys
from pathlib import Path

import cv2
import numpy as np

TURNS = (-48, -36, -24, -12, 0, 12, 24, 36, 48)
SIZES = (0.88, 1.0, 1.12)
GALLERY = 8  # pieces of other pictures
PAD = 14


def normed(curve):
    return (curve - curve.mean()) / (curve.std() + 1e-9)


def templates(mask, sizes):
    """The piece's outline under every turn and size."""
    size = mask.shape[0] + 2 * PAD
    padded = cv2.copyMakeBorder(mask, PAD, PAD, PAD, PAD, cv2.BORDER_CONSTANT)
    for turn in TURNS:
        for scale in sizes:
            matrix = cv2.getRotationMatrix2D((size / 2 - 0.5, size / 2 - 0.5), turn, scale)
            yield cv2.warpAffine(padded, matrix, (size, size), flags=cv2.INTER_LINEAR)


class Row:
    """The strip of a scene in which the piece moves, looked at in every way."""

    def __init__(self, scene, side, top):
        framed = cv2.copyMakeBorder(scene, PAD, PAD, PAD, PAD, cv2.BORDER_REFLECT)
        rows = slice(top, top + side + 2 * PAD)
        smooth = cv2.bilateralFilter(framed, 7, 40, 5)
        lab = cv2.cvtColor(smooth, cv2.COLOR_BGR2LAB).astype(np.float32)
        grads = [
            (cv2.Sobel(lab[:, :, c], cv2.CV_32F, 1, 0), cv2.Sobel(lab[:, :, c], cv2.CV_32F, 0, 1)) for c in range(3)
        ]
        strength = np.sqrt(sum(gx * gx + gy * gy for gx, gy in grads))
        weight = 1.0 / (strength + np.median(strength)) ** 2
        grey = cv2.GaussianBlur(cv2.cvtColor(framed, cv2.COLOR_BGR2GRAY), (5, 5), 1.2)
        middle = np.median(grey)
        canny = np.maximum.reduce(
            [cv2.Canny(cv2.GaussianBlur(framed[:, :, c], (5, 5), 1.4), 0.5 * middle, 1.0 * middle) for c in range(3)]
        )
        mean = cv2.boxFilter(grey.astype(np.float32), -1, (5, 5))
        rough = np.sqrt(np.maximum(cv2.boxFilter(grey.astype(np.float32) ** 2, -1, (5, 5)) - mean**2, 0))
        self.tensor = [
            cut(rows, sum(gx * gx for gx, _ in grads) * weight),
            cut(rows, sum(gx * gy for gx, gy in grads) * weight),
            cut(rows, sum(gy * gy for _, gy in grads) * weight),
        ]
        self.far = cut(rows, np.minimum(cv2.distanceTransform(255 - canny, cv2.DIST_L2, 3), 8.0))
        self.edges = cut(rows, cv2.GaussianBlur(canny.astype(np.float32) / 255, (0, 0), 1.5))
        self.capped = cut(rows, np.minimum(strength, np.percentile(strength, 95)))
        self.lab = [cut(rows, lab[:, :, c]) for c in range(3)]
        self.rough = cut(rows, rough)
        # The piece begins at the left: no shape is there.
        self.xs = np.arange(side, scene.shape[1] - side)

    def match(self, picture, template, method=cv2.TM_CCORR):
        return cv2.matchTemplate(picture, template.astype(np.float32), method)[0][self.xs]

    def scores(self, mask, methods, sizes=SIZES):
        """The best score of a shape at each column, by method."""
        best = {}
        for shape in templates(mask, sizes):
            for name, curve in self._scores(shape, methods):
                best[name] = np.maximum(best[name], curve) if name in best else curve
        return best

    def _scores(self, shape, methods):
        blurred = cv2.GaussianBlur(shape, (0, 0), 1.0)
        nx, ny = cv2.Sobel(blurred, cv2.CV_32F, 1, 0), cv2.Sobel(blurred, cv2.CV_32F, 0, 1)
        length = np.sqrt(nx * nx + ny * ny)
        line = length / length.sum()
        ux, uy = nx / (length + 1e-9), ny / (length + 1e-9)
        soft = cv2.GaussianBlur(line, (0, 0), 1.2)
        if "edges" in methods:
            yield "edges", self.match(self.edges, soft, cv2.TM_CCOEFF_NORMED)
        if "gradient" in methods:
            yield "gradient", self.match(self.capped, soft, cv2.TM_CCOEFF_NORMED)
        if "oriented" in methods:
            xx, xy, yy = self.tensor
            across = (
                self.match(xx, line * ux * ux) + 2 * self.match(xy, line * ux * uy) + self.match(yy, line * uy * uy)
            )
            yield "oriented", 2 * across - self.match(xx + yy, line)
        if "chamfer" in methods:
            yield "chamfer", -self.match(self.far, line)
        solid = (shape > 0.5).astype(np.float32)
        inner = cv2.erode(solid, np.ones((3, 3)))
        outer = cv2.dilate(solid, np.ones((11, 11))) - cv2.dilate(solid, np.ones((3, 3)))
        inner, outer = inner / inner.sum(), outer / outer.sum()
        for name, channels in (("region", self.lab), ("variance", [self.rough])):
            if name not in methods:
                continue
            between = within = 0
            for channel in channels:
                a, b = self.match(channel, inner), self.match(channel, outer)
                between = between + (a - b) ** 2
                within = within + self.match(channel**2, inner) - a**2 + self.match(channel**2, outer) - b**2
            yield name, between / (within + 20.0)


def cut(rows, picture):
    return np.ascontiguousarray(picture[rows], dtype=np.float32)


THREE = ("edges", "oriented", "region")


def curves(scene, piece, top, others):
    """A score for each column at which the piece's corner may lie, by each method."""
    mask = (piece[:, :, 3] > 127).astype(np.float32)
    row = Row(scene, mask.shape[0], top)
    best = row.scores(mask, ("edges", "gradient", "oriented", "chamfer", "region", "variance"))
    everything = sum(normed(curve) for curve in best.values())
    three = sum(normed(best[name]) for name in THREE)
    gallery = 0
    mine = row.scores(mask, THREE, (1.0,))
    theirs = [row.scores(other, THREE, (1.0,)) for other in others]
    for name in THREE:
        field = np.array([scores[name] for scores in theirs])
        gallery = (
            gallery
            + normed(best[name])
            + 2 * normed((mine[name] - field.mean(axis=0)) / (field.std(axis=0) + 0.02 * np.ptp(field)))
        )
    strip = np.ascontiguousarray(scene[top : top + mask.shape[0]]).astype(np.float32)
    bgr = piece[:, :, :3].astype(np.float32)
    best["texture"] = cv2.matchTemplate(strip, bgr, cv2.TM_CCORR_NORMED, mask=np.dstack([mask] * 3))[0][row.xs]
    return row.xs, best | {"all": everything, "three": three, "gallery": gallery}


def main():
    folder = Path(sys.argv[1])
    answers = json.loads((folder / "answers.json").read_text())
    tolerance, holes = answers["tolerance"], answers["holes"]
    hits, near = {}, {}
    pieces = {
        name: (cv2.imread(str(folder / f"{name}.png"), cv2.IMREAD_UNCHANGED)[:, :, 3] > 127).astype(np.float32)
        for name in answers["pictures"]
    }
    lot = random.Random(0)
    for name, (x, y) in sorted(answers["pictures"].items()):
        others = [pieces[other] for other in lot.sample(sorted(set(pieces) - {name}), GALLERY)]
        scene = cv2.imread(str(folder / f"{name}.jpg"))
        piece = cv2.imread(str(folder / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        xs, best = curves(scene, piece, y, others)
        for method, curve in best.items():
            off = abs(int(xs[int(np.argmax(curve))]) - x)
            hits[method] = hits.get(method, 0) + (off <= tolerance)
            near[method] = near.get(method, 0) + (off <= 20)
    count = len(answers["pictures"])
    print(f"{count} pictures, {holes} shapes in each, right within {tolerance} pixels\n")
    print("| method | solved | the right shape |\n|---|---|---|")
    for method in hits:
        print(f"| {method} | {hits[method] / count:.1%} | {near[method] / count:.1%} |")
    print(f"| floor | {1 / holes:.1%} | |")


main()
