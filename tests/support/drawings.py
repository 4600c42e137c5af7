"""Images for the verdicts: photographs, what is done to them, and look-alikes of one template."""

import colorsys
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
from sklearn.datasets import load_sample_image

Change = Callable[[Image.Image], Image.Image]
Turn = Image.Transpose
WORDS = ["harbour", "copper", "meadow", "lantern", "winter", "pencil", "orchard", "ribbon"]


def photograph(name: str = "china.jpg") -> Image.Image:
    """One of scikit-learn's two photographs, 640 by 427 pixels."""
    return Image.fromarray(load_sample_image(name))


def write(image: Image.Image, x: float, y: float, text: str, size: int, **options: object) -> None:
    ImageDraw.Draw(image).text((x, y), text, font=ImageFont.load_default(size), **options)


# --- The whole image --------------------------------------------------------------------------


def cropped(image: Image.Image, share: float = 0.8) -> Image.Image:
    width, height = image.size
    left, upper = round(width * (1 - share) / 2), round(height * (1 - share) / 2)
    return image.crop((left, upper, width - left, height - upper))


def rotated(image: Image.Image) -> Image.Image:
    return image.rotate(5, Image.Resampling.BICUBIC, expand=True)


def screenshot(image: Image.Image) -> Image.Image:
    """An image on the black screen of a telephone, with the time above."""
    screen = Image.new("RGB", (480, 1040))
    shown = ImageOps.contain(image, (480, 1040))
    screen.paste(shown, (0, (1040 - shown.height) // 2))
    write(screen, 20, 12, "12:34", 18, fill="white")
    return screen


WHOLE: dict[str, tuple[Change, str]] = {
    "re-encoded": (lambda image: image, "re-encoded"),
    "half": (lambda image: image.resize((320, 213), Image.Resampling.LANCZOS), "resized"),
    "grey": (lambda image: image.convert("L").convert("RGB"), "without colours"),
    "mirrored": (ImageOps.mirror, "mirrored"),
    "rotated by 5°": (rotated, "rotated 5°"),
    "rotated by 90°": (lambda image: image.transpose(Turn.ROTATE_90), "rotated 90°"),
    "cropped": (cropped, "cropped"),
    "bordered": (lambda image: ImageOps.expand(image, 60, "black"), "border"),
    "letterbox": (lambda image: ImageOps.pad(image, (640, 640)), "border"),
    "screenshot": (screenshot, ""),
    "stretched": (lambda image: image.resize((640, 340)), "stretched"),
}


# --- A part -----------------------------------------------------------------------------------


def sticker(image: Image.Image) -> Image.Image:
    changed = image.copy()
    ImageDraw.Draw(changed).ellipse((300, 120, 440, 260), fill=(250, 200, 40), outline="black")
    return changed


def caption_over(image: Image.Image) -> Image.Image:
    changed = image.copy()
    options = {"fill": "white", "stroke_width": 3, "stroke_fill": "black"}
    write(changed, 60, 20, "WHEN IN DOUBT", 50, **options)
    return changed


def caption_bar(image: Image.Image) -> Image.Image:
    changed = Image.new("RGB", (image.width, image.height + 90), "white")
    changed.paste(image, (0, 90))
    write(changed, 15, 20, "nobody had told the gardener", 36, fill="black")
    return changed


def watermark(image: Image.Image) -> Image.Image:
    changed = image.copy()
    write(changed, 380, 385, "© Example Ltd.", 30, fill="white")
    return changed


def blacked_out(image: Image.Image) -> Image.Image:
    changed = image.copy()
    changed.paste((0, 0, 0), (80, 220, 240, 340))
    return changed


def collage(image: Image.Image) -> Image.Image:
    changed = Image.new("RGB", (1000, 427), "white")
    changed.paste(image.crop((80, 0, 580, 427)), (0, 0))
    changed.paste(Image.effect_noise((500, 427), 60).convert("RGB"), (500, 0))
    return changed


def other_hue(image: Image.Image) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point(lambda level: (level + 90) % 256)
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


PART: dict[str, Change] = {
    change.__name__: change
    for change in (sticker, caption_over, caption_bar, watermark, blacked_out, collage, other_hue)
}


# --- Look-alikes ------------------------------------------------------------------------------


def invoice(rng: np.random.Generator) -> Image.Image:
    page = Image.new("RGB", (600, 800), "white")
    write(page, 30, 30, "EXAMPLE & SONS", 40, fill=(20, 60, 120))
    write(page, 400, 110, f"No. {rng.integers(10_000, 99_999)}", 18, fill="black")
    for line in range(7):
        y = 200 + 50 * line
        write(page, 40, y, str(rng.choice(WORDS)), 18, fill="black")
        write(page, 450, y, f"{rng.integers(10, 999)}.00", 18, fill="black")
        ImageDraw.Draw(page).line((30, y + 36, 570, y + 36), fill="grey")
    write(page, 380, 680, f"TOTAL {rng.integers(1000, 9999)}", 26, fill="black")
    return page


def meme(rng: np.random.Generator) -> Image.Image:
    image = photograph()
    options = {"fill": "white", "stroke_width": 3, "stroke_fill": "black", "anchor": "mt"}
    for y in (10, 370):
        write(image, 320, y, " ".join(rng.choice(WORDS, 3)).upper(), 44, **options)
    return image


def bottle(rng: np.random.Generator) -> Image.Image:
    """One bottle in a colour of its own."""
    colour = tuple(int(255 * x) for x in colorsys.hsv_to_rgb(rng.random(), 0.7, 0.7))
    image = Image.new("RGB", (450, 600), "white")
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((140, 180, 310, 570), 30, fill=colour)
    draw.rectangle((195, 80, 255, 190), fill=colour)
    draw.rectangle((140, 320, 310, 440), fill=(240, 240, 230))
    write(image, 165, 355, "CIDER", 40, fill="black")
    return image.filter(ImageFilter.GaussianBlur(0.7))


def icon(rng: np.random.Generator) -> Image.Image:
    """An icon with a letter of its own."""
    image = Image.new("RGB", (256, 256), (240, 240, 240))
    ImageDraw.Draw(image).rounded_rectangle((20, 20, 236, 236), 40, fill=(30, 110, 200))
    letter = chr(int(rng.permutation(26)[0]) + ord("A"))
    write(image, 128, 128, letter, 130, fill="white", anchor="mm")
    return image


TEMPLATES = {make.__name__: make for make in (invoice, meme, bottle, icon)}


def look_alikes(name: str, count: int) -> Iterator[Image.Image]:
    """Images of one template, each with other content."""
    seen: set[bytes] = set()
    rng = np.random.default_rng(0)
    while len(seen) < count:
        image = TEMPLATES[name](rng)
        if image.tobytes() not in seen:
            seen.add(image.tobytes())
            yield image
