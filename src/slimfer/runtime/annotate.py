"""Marked pictures: boxes, labels and the bars of all scores, drawn with Pillow alone.

Everything is sized by the picture, so that it reads the same at 240 and at 4,000 pixels. No meaning is in a colour
alone: every box carries its word, the colours are those of Okabe and Ito (2008), which people with any kind of colour
blindness tell apart, and each has a dark rim, so that it stands out on light and on dark.
"""

from collections.abc import Mapping
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from slimfer.runtime.answer import Face, Prediction

Color = tuple[int, int, int]
Rect = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are outside
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Of the classes, in the order of the labels: vermillion, green, purple, yellow, blue, orange, sky blue.
PALETTE: tuple[Color, ...] = (
    (213, 94, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66), (0, 114, 178), (230, 159, 0), (86, 180, 233),
)  # fmt: skip
DARK: Color = (16, 16, 16)
LIGHT: Color = (255, 255, 255)
SHADE = 0.72  # how dark the ground behind the bars is

SMALLEST_TEXT = 11  # pixels; below it letters run together
SHORT_SIDE = 240  # pictures below it are enlarged, because a word does not fit into 48 pixels
LONG_SIDE = 2000  # enlarging goes no further
BARS = 16  # faces that get bars; more would hide a crowd

NOTES = {"no_face": "no face", "no_detector": "no face detector", "unreadable": "unreadable"}


def annotate(picture: Image.Image, prediction: Prediction, *, enlarge: bool = True) -> Image.Image:
    """Return a copy of the picture with every face marked.

    A box, the label with its calibrated confidence (and a question mark where it is uncertain, the number of the person
    in a video), and the bars of all scores where there is room beside the face.

    Args:
        picture: upright, any mode; if it is larger or smaller than `prediction` says, the boxes are scaled with it.
        prediction: what was read in it.
        enlarge: bring pictures whose short side is below 240 pixels to at least that by a whole factor (the long side
            stays below 2,000), and put the bars beside a picture that is a face. Off, the result has the same size.

    Returns:
        An RGB picture.
    """
    canvas = picture.convert("RGB")
    if canvas is picture:
        canvas = picture.copy()
    if enlarge:
        factor = _factor(*canvas.size)
        if factor > 1:
            canvas = canvas.resize((canvas.width * factor, canvas.height * factor), Image.Resampling.BICUBIC)
    if not prediction.faces:
        _Sheet(canvas).note(NOTES.get(prediction.status, ""))
        return canvas
    across = canvas.width / (prediction.width or canvas.width)
    down = canvas.height / (prediction.height or canvas.height)
    boxes = [_scaled(face, across, down) for face in prediction.faces]
    if enlarge and boxes == [(0, 0, *canvas.size)]:
        canvas = _with_margin(canvas, prediction.faces[0])
    sheet = _Sheet(canvas)
    for face, box in reversed(list(zip(prediction.faces, boxes, strict=True))):  # the largest face lies on top
        sheet.frame(face, box)
    for face, box in zip(prediction.faces, boxes, strict=True):  # the largest face chooses its place first
        sheet.name(face, box)
    for face, box in list(zip(prediction.faces, boxes, strict=True))[:BARS]:
        sheet.bars(face, box)
    return canvas


class _Sheet:
    """A picture that is drawn on, and where it is taken already."""

    def __init__(self, canvas: Image.Image) -> None:
        self.canvas = canvas
        self.draw = ImageDraw.Draw(canvas)
        self.text = _text_size(*canvas.size)
        self.boxes: list[Rect] = []
        self.taken: list[Rect] = []

    def note(self, words: str) -> None:
        """Write a plate into the upper left corner."""
        if words:
            font, pad = _font(self.text), self.text // 3
            width, height = _extent(font, words)
            self._plate((pad, pad, width + 3 * pad, height + 3 * pad), words, font, DARK)

    def frame(self, face: Face, box: Rect) -> None:
        """Draw the box: its colour with a dark rim on both sides."""
        line = max(1, self._text_for(box) // 6)
        rim = max(1, line // 2)
        left, top, right, bottom = box
        self.draw.rectangle((left, top, right - 1, bottom - 1), outline=DARK, width=line + 2 * rim)
        inner = (left + rim, top + rim, right - 1 - rim, bottom - 1 - rim)
        if inner[0] <= inner[2] and inner[1] <= inner[3]:
            self.draw.rectangle(inner, outline=_color(face, face.label), width=line)
        self.boxes.append(box)

    def name(self, face: Face, box: Rect) -> None:
        """Write the label on a plate at the box: above, below, or inside at the top, wherever nothing is in the way."""
        size = self._text_for(box)
        font, pad = _font(size), size // 3
        words = _words(face)
        width, height = (side + 2 * pad for side in _extent(font, words))
        left, top, _, bottom = box
        others = [other for other in self.boxes if other != box]
        places = [(left, top - height), (left, bottom), (left, top)]
        rects = [self._inside(x, y, width, height) for x, y in places]
        free = (rect for rect, (_, y) in zip(rects, places, strict=True) if rect[1] == y and self._free(rect, others))
        place = next(free, rects[0])
        self._plate(place, words, font, _color(face, face.label))
        self.taken.append(place)

    def bars(self, face: Face, box: Rect) -> None:
        """Draw one bar for each class beside the box, if there is room on any side."""
        if not face.scores:
            return
        size = max(SMALLEST_TEXT, self._text_for(box) * 4 // 5)
        width, height, column = _panel(face.scores, size)
        gap = max(2, size // 3)
        left, top, right, bottom = box
        places = ((right + gap, top), (left - gap - width, top), (left, bottom + gap), (left, top - gap - height))
        for x, y in places:
            rect = self._inside(x, y, width, height)
            if self._free(rect, self.boxes):
                self._panel(rect, face, size, column)
                self.taken.append(rect)
                return

    def _panel(self, rect: Rect, face: Face, size: int, column: int) -> None:
        ground = self.canvas.crop(rect)
        self.canvas.paste(Image.blend(ground, Image.new("RGB", ground.size, DARK), SHADE), rect[:2])
        font, row = _font(size), _row(size)
        pad = size // 2
        start, full = rect[0] + pad + column, rect[2] - rect[0] - 2 * pad - column
        for index, (label, score) in enumerate(face.scores.items()):
            top = rect[1] + pad + index * row
            self.draw.text((rect[0] + pad, top), label, fill=LIGHT, font=font)
            bar = (start, top + row // 5, start + max(1, round(full * min(1.0, score))) - 1, top + row * 4 // 5)
            self.draw.rectangle(bar, fill=PALETTE[index % len(PALETTE)])

    def _plate(self, rect: Rect, words: str, font: Font, color: Color) -> None:
        self.draw.rectangle((rect[0], rect[1], rect[2] - 1, rect[3] - 1), fill=color, outline=DARK)
        width, height = _extent(font, words)
        x, y = (rect[0] + rect[2] - width) // 2, (rect[1] + rect[3] - height) // 2
        self.draw.text((x, y - _above(font)), words, fill=_ink(color), font=font)

    def _text_for(self, box: Rect) -> int:
        """Return the size of letters for a face: smaller for faces that are small in the picture."""
        return min(self.text, max(SMALLEST_TEXT, self.text // 2, (box[2] - box[0]) // 5))

    def _inside(self, x: int, y: int, width: int, height: int) -> Rect:
        """Return the rectangle, moved into the picture as far as it fits."""
        x = max(0, min(x, self.canvas.width - width))
        y = max(0, min(y, self.canvas.height - height))
        return x, y, x + width, y + height

    def _free(self, rect: Rect, boxes: list[Rect]) -> bool:
        whole = rect[2] <= self.canvas.width and rect[3] <= self.canvas.height
        return whole and not any(_overlap(rect, other) for other in (*boxes, *self.taken))


def _words(face: Face) -> str:
    person = f"#{face.track} " if face.track is not None else ""
    return f"{person}{face.label}{'?' if face.uncertain else ''} {100 * face.confidence:.0f} %"


def _color(face: Face, label: str) -> Color:
    labels = list(face.scores) or [label]
    return PALETTE[(labels.index(label) if label in labels else 0) % len(PALETTE)]


def _ink(ground: Color) -> Color:
    """Return black or white letters, whichever stand out more (contrast as WCAG 2 defines it)."""
    return max(DARK, LIGHT, key=lambda ink: contrast(ink, ground))


def contrast(one: Color, other: Color) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2.2, relative luminance)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: Color) -> float:
    shares = (value / 255 for value in color)
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _factor(width: int, height: int) -> int:
    """Return the whole factor by which a small picture is enlarged."""
    wanted = -(-SHORT_SIDE // min(width, height))
    return max(1, min(wanted, LONG_SIDE // max(width, height)))


def _with_margin(canvas: Image.Image, face: Face) -> Image.Image:
    """Return the picture with room for the bars on its right."""
    size = max(SMALLEST_TEXT, _text_size(*canvas.size) * 4 // 5)
    width, height, _ = _panel(face.scores, size)
    wider = Image.new("RGB", (canvas.width + width + 2 * max(2, size // 3), max(canvas.height, height)), DARK)
    wider.paste(canvas, (0, 0))
    return wider


def _text_size(width: int, height: int) -> int:
    return max(SMALLEST_TEXT, min(width, height) // 36)


def _row(size: int) -> int:
    return size * 5 // 4


def _panel(scores: Mapping[str, float], size: int) -> tuple[int, int, int]:
    """Return width and height of the bars, and the width of the column of names."""
    font = _font(size)
    column = max((_extent(font, label)[0] for label in scores), default=0) + size // 2
    return column + 7 * size, len(scores) * _row(size) + size, column


def _scaled(face: Face, across: float, down: float) -> Rect:
    box = face.box
    left, top = round(box.x * across), round(box.y * down)
    return left, top, max(left + 1, round((box.x + box.w) * across)), max(top + 1, round((box.y + box.h) * down))


def _overlap(one: Rect, other: Rect) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@lru_cache(maxsize=64)
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


@lru_cache(maxsize=1024)
def _extent(font: Font, words: str) -> tuple[int, int]:
    """Return the width of the words and the height of a line of this font, in pixels."""
    _, top, _, bottom = font.getbbox("Åg")
    return -int(-font.getlength(words) // 1), int(bottom - top)


def _above(font: Font) -> int:
    """Return how many pixels lie between where a text is put and its highest letters."""
    return int(font.getbbox("Åg")[1])
