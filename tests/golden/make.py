"""Writes the golden fixtures of the image path: inputs, and what OpenCV and ONNX Runtime make of them.

Run from anywhere, in a virtual environment with requirements.txt:  python tests/golden/make.py
Everything under tests/golden but this file, README.md and requirements.txt is its output, and so is
engines/ArcFace/1/golden.json.
"""

import base64
import io
import json
import math
import pathlib
import shutil
import struct
import zlib

import cv2
import numpy as np
import onnxruntime
from PIL import Image
from skimage import data

HERE = pathlib.Path(__file__).resolve().parent
MODEL = HERE.parents[1] / "engines/ArcFace/1/model.onnx"
ASTRONAUT = data.astronaut()
FACE = np.ascontiguousarray(ASTRONAUT[15:215, 124:324])
# Neither square nor symmetric, so that no turn or flip of it goes unnoticed.
SMALL = np.ascontiguousarray(ASTRONAUT[70:166:2, 150:278:2])
SIZE = (112, 112)
# Golden cases that ship beside the model: a face, and another kind of file. Each costs a run before it serves.
GUARD = ("face.jpg", "png_rgb.png")


def pillow(picture, kind, mode=None, **options):
    out = io.BytesIO()
    Image.fromarray(picture, mode).save(out, kind, **options)
    return out.getvalue()


def opencv(picture, suffix, *options):
    ok, out = cv2.imencode(suffix, np.ascontiguousarray(picture[..., ::-1]), options)
    assert ok
    return out.tobytes()


def resized_source(width, height):
    return cv2.resize(FACE, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, 3)


def exif(orientation, big_endian=False):
    order = ">" if big_endian else "<"
    magic = b"MM\0*" if big_endian else b"II*\0"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return magic + struct.pack(order + "IH", 8, 1) + entry + struct.pack(order + "I", 0)


def segment(marker, payload):
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def jpeg_with(encoded, *segments):
    """The JPEG with more segments right after its start-of-image marker."""
    return encoded[:2] + b"".join(segments) + encoded[2:]


def png_chunk(kind, payload):
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def png(samples, depth, color, *extra, interlaced=False):
    """A PNG of `samples`, [height, width, channels] with values of `depth` bits, with filter 0 throughout."""
    height, width, _ = samples.shape

    def rows(part):
        out = b""
        for row in part:
            if depth == 16:
                out += b"\0" + row.astype(">u2").tobytes()
            elif depth == 8:
                out += b"\0" + row.astype(np.uint8).tobytes()
            else:
                bits = (row.reshape(-1, 1) >> np.arange(depth)[::-1]) & 1
                out += b"\0" + np.packbits(bits.reshape(-1).astype(np.uint8)).tobytes()
        return out

    if interlaced:  # Adam7: first column, first row, column step, row step.
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
        body = b"".join(rows(samples[y::ys, x::xs]) for x, y, xs, ys in passes)
    else:
        body = rows(samples)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + b"".join(extra)
        + png_chunk(b"IDAT", zlib.compress(body, 9))
        + png_chunk(b"IEND", b"")
    )


def jpegs():
    quality = (cv2.IMWRITE_JPEG_QUALITY, 90)
    for name in ("444", "422", "420", "440", "411"):
        factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}")
        options = quality + (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor)
        yield f"jpeg_{name}.jpg", opencv(SMALL[:45, :61], ".jpg", *options)
        yield f"jpeg_{name}_progressive.jpg", opencv(
            SMALL[:45, :61], ".jpg", *options, cv2.IMWRITE_JPEG_PROGRESSIVE, 1
        )
    yield "jpeg_restart.jpg", opencv(SMALL, ".jpg", *quality, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)
    yield "jpeg_low_quality.jpg", opencv(FACE, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 20)
    yield "jpeg_gray.jpg", pillow(SMALL[..., 1], "JPEG", quality=90)
    yield "jpeg_rgb.jpg", pillow(SMALL, "JPEG", quality=90, keep_rgb=True)
    ink = np.dstack([255 - SMALL, np.full(SMALL.shape[:2], 40, np.uint8)])
    ink[:, 20:40, 3] = 128
    cmyk = pillow(ink, "JPEG", "CMYK", quality=90)
    yield "jpeg_cmyk.jpg", cmyk
    adobe = cmyk.index(b"Adobe")
    assert cmyk[adobe + 11] == 0
    # The last byte of Adobe's segment is the colour transform; 2 declares the same four components YCCK.
    yield "jpeg_ycck.jpg", cmyk[: adobe + 11] + b"\x02" + cmyk[adobe + 12 :]
    plain = pillow(SMALL, "JPEG", quality=90)
    for orientation in range(10):
        block = segment(0xE1, b"Exif\0\0" + exif(orientation, big_endian=orientation % 2 == 1))
        yield f"jpeg_exif_{orientation}.jpg", jpeg_with(plain, block)
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>")
    yield "jpeg_exif_after_xmp.jpg", jpeg_with(plain, xmp, segment(0xE1, b"Exif\0\0" + exif(6)))
    two = segment(0xE1, b"Exif\0\0" + exif(6)), segment(0xE1, b"Exif\0\0" + exif(3))
    yield "jpeg_exif_twice.jpg", jpeg_with(plain, *two)
    yield "jpeg_exif_before_xmp.jpg", jpeg_with(plain, two[0], xmp)
    # A scan with bytes that belong to nothing before its end: a warning in libjpeg.
    yield "jpeg_extraneous.jpg", plain[:-2] + b"\x12\x34\x56" + plain[-2:]
    yield "jpeg_trailing.jpg", plain + b"tail" * 5
    frame = strip_tables(opencv(SMALL, ".jpg", *quality))
    yield "jpeg_no_huffman_tables.jpg", frame


def strip_tables(encoded):
    """The JPEG without its Huffman tables, as in Motion JPEG: readers then take the standard ones."""
    out, at = encoded[:2], 2
    while True:
        marker, length = encoded[at + 1], struct.unpack(">H", encoded[at + 2 : at + 4])[0]
        if marker == 0xDA:
            return out + encoded[at:]
        if marker != 0xC4:
            out += encoded[at : at + 2 + length]
        at += 2 + length


def pngs():
    height, width, _ = SMALL.shape
    alpha = np.tile(np.arange(width) * 4, (height, 1)).astype(np.uint8)[..., None]
    gray = SMALL[..., 1:2].astype(np.uint16)
    noise = np.random.default_rng(7).integers(0, 256, SMALL.shape)
    deep = SMALL.astype(np.uint16) * 256 + noise
    palette = Image.fromarray(SMALL).quantize(16)
    index = np.array(palette)[..., None]
    colors = bytes(palette.getpalette()[:48])
    plte = png_chunk(b"PLTE", colors)
    yield "png_rgb.png", png(SMALL, 8, 2)
    yield "png_rgb_interlaced.png", png(SMALL, 8, 2, interlaced=True)
    yield "png_rgba.png", png(np.dstack([SMALL, alpha]), 8, 6)
    yield "png_rgb_trns.png", png(SMALL, 8, 2, png_chunk(b"tRNS", struct.pack(">3H", *map(int, SMALL[3, 3]))))
    yield "png_gray.png", png(gray, 8, 0)
    yield "png_gray_alpha.png", png(np.dstack([gray, alpha]), 8, 4)
    yield "png_gray_trns.png", png(gray, 8, 0, png_chunk(b"tRNS", struct.pack(">H", int(gray[3, 3, 0]))))
    for depth in (1, 2, 4):
        yield f"png_gray_{depth}bit.png", png(gray >> (8 - depth), depth, 0)
    yield "png_gray_16bit.png", png(deep[..., :1], 16, 0)
    yield "png_gray_alpha_16bit.png", png(np.dstack([deep[..., :1], alpha.astype(np.uint16) * 257]), 16, 4)
    yield "png_rgb_16bit.png", png(deep, 16, 2)
    yield "png_rgba_16bit.png", png(np.dstack([deep, alpha.astype(np.uint16) * 257]), 16, 6)
    yield "png_rgb_16bit_interlaced.png", png(deep, 16, 2, interlaced=True)
    yield "png_palette_8bit.png", png(index, 8, 3, plte)
    yield "png_palette_4bit.png", png(index, 4, 3, plte)
    yield "png_palette_2bit.png", png(index & 3, 2, 3, plte)
    yield "png_palette_1bit.png", png(index & 1, 1, 3, plte)
    yield "png_palette_trns.png", png(index, 8, 3, plte, png_chunk(b"tRNS", bytes(range(0, 160, 10))))
    yield "png_exif_6.png", png(SMALL, 8, 2, png_chunk(b"eXIf", exif(6)))
    yield "png_exif_3.png", png(SMALL, 8, 2, png_chunk(b"eXIf", exif(3, big_endian=True)))


def others():
    height, width, _ = SMALL.shape
    alpha = np.tile(np.arange(width) * 4, (height, 1)).astype(np.uint8)
    rgba = np.dstack([SMALL, alpha])
    noise = np.random.default_rng(7).integers(0, 256, SMALL.shape)
    deep = SMALL.astype(np.uint16) * 256 + noise.astype(np.uint16)
    yield "webp_lossy.webp", pillow(SMALL, "WEBP", quality=80)
    yield "webp_lossy_face.webp", pillow(FACE, "WEBP", quality=90)
    yield "webp_lossy_alpha.webp", pillow(rgba, "WEBP", quality=80)
    yield "webp_lossless.webp", pillow(SMALL, "WEBP", lossless=True)
    yield "webp_lossless_alpha.webp", pillow(rgba, "WEBP", lossless=True, exact=True)
    yield "webp_exif_6.webp", pillow(SMALL, "WEBP", lossless=True, exif=b"Exif\0\0" + exif(6))
    palette = Image.fromarray(SMALL).quantize(32)
    yield "bmp_rgb.bmp", pillow(SMALL, "BMP")
    yield "bmp_rgba.bmp", pillow(rgba, "BMP")
    yield "bmp_gray.bmp", pillow(SMALL[..., 1], "BMP")
    yield "bmp_1bit.bmp", pillow((SMALL[..., 1] > 90), "BMP")
    yield "bmp_palette.bmp", pillow(np.array(palette), "BMP")
    bottom_up = bytearray(pillow(SMALL, "BMP"))
    bottom_up[22:26] = struct.pack("<i", -height)
    yield "bmp_top_down.bmp", bytes(bottom_up)
    for compression in ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate"):
        yield f"tiff_rgb_{compression}.tif", pillow(SMALL, "TIFF", compression=compression)
    yield "tiff_gray.tif", pillow(SMALL[..., 1], "TIFF")
    yield "tiff_1bit.tif", pillow((SMALL[..., 1] > 90), "TIFF")
    yield "tiff_rgba.tif", pillow(rgba, "TIFF")
    yield "tiff_rgba_associated.tif", pillow(rgba, "TIFF", tiffinfo={338: 1})
    yield "tiff_rgb_16bit.tif", opencv(deep, ".tiff")
    ok, out = cv2.imencode(".tiff", deep[..., 0])
    yield "tiff_gray_16bit.tif", out.tobytes()
    for orientation in (3, 6, 7):
        yield f"tiff_orientation_{orientation}.tif", pillow(SMALL, "TIFF", tiffinfo={0x112: orientation})
    out = io.BytesIO()
    palette.save(out, "GIF")
    gif = out.getvalue()
    yield "gif_palette.gif", gif
    yield "gif_local_table.gif", local_table(gif, transparent=5)
    out = io.BytesIO()
    palette.save(out, "GIF", transparency=5)
    yield "gif_transparent.gif", out.getvalue()
    out = io.BytesIO()
    palette.save(out, "GIF", save_all=True, append_images=[palette.rotate(180)], interlace=1)
    yield "gif_animated.gif", out.getvalue()
    yield "gif_larger_canvas.gif", gif[:6] + struct.pack("<HH", width + 20, height + 10) + gif[10:]


def local_table(gif, transparent):
    """The GIF with its colour table in the picture's own descriptor, and no global one."""
    entries = 3 * (2 << (gif[10] & 7))
    table, rest = gif[13 : 13 + entries], gif[13 + entries :]
    at = rest.index(b",")
    descriptor = rest[at : at + 9] + bytes([rest[at + 9] | 0x80 | (gif[10] & 7)])
    control = b"!\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0"
    return b"GIF89a" + gif[6:10] + bytes([gif[10] & 0x7F]) + gif[11:13] + control + descriptor + table + rest[at + 10 :]


def odd_sizes():
    for width, height in ((1, 1), (1, 7), (7, 1), (300, 2), (2, 300), (113, 112), (112, 112), (224, 224), (111, 55)):
        yield f"size_{width}x{height}.png", pillow(resized_source(width, height), "PNG", optimize=True)


def stretch(picture, size):
    return cv2.resize(picture, size)


def letterbox(picture, size, fill):
    h, w, _ = picture.shape
    ratio = min(size[0] / w, size[1] / h)
    width, height = (min(max(round(n * ratio), 1), limit) for n, limit in ((w, size[0]), (h, size[1])))
    out = np.empty((size[1], size[0], 3), np.uint8)
    out[:] = fill
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    out[top : top + height, left : left + width] = cv2.resize(picture, (width, height))
    return out


def center_crop(picture, size, shorter):
    h, w, _ = picture.shape
    if shorter is None:
        by_width = size[0] * h >= size[1] * w
        width, height = (size[0], h * size[0] // w) if by_width else (w * size[1] // h, size[1])
    else:
        width, height = (shorter, h * shorter // w) if w <= h else (w * shorter // h, shorter)
    resized = cv2.resize(picture, (width, height))
    top, left = round((height - size[1]) / 2), round((width - size[0]) / 2)
    return resized[top : top + size[1], left : left + size[0]]


def decode(encoded):
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None and picture.dtype == np.uint8
    return np.ascontiguousarray(picture[..., ::-1])


def huge_headers():
    """Tiny files that claim 60000 by 60000 pixels."""
    side = 60000
    small = pillow(SMALL, "JPEG", quality=50)
    at = small.index(b"\xff\xc0") + 5
    yield "huge.jpg", small[:at] + struct.pack(">HH", side, side) + small[at + 4 :]
    body = png(SMALL[:2, :2], 8, 2)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    yield "huge.png", body[:8] + header + body[33:]
    bmp = pillow(SMALL[:2, :2], "BMP")
    yield "huge.bmp", bmp[:18] + struct.pack("<ii", side, side) + bmp[26:]
    gif = pillow(SMALL[:2, :2, 0], "GIF")
    yield "huge.gif", gif[:6] + struct.pack("<HH", side, side) + gif[10:]
    tiff = b"II*\0" + struct.pack("<IH", 8, 9)
    for tag, value in (
        (256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, 130), (277, 1), (278, side), (279, 16)
    ):
        tiff += struct.pack("<HHII", tag, 4, 1, value)
    yield "huge.tif", tiff + bytes(20)
    canvas = struct.pack("<I", side - 1)[:3] * 2
    webp = pillow(SMALL[:2, :2], "WEBP", lossless=True)[12:]
    vp8x = b"VP8X" + struct.pack("<I", 10) + b"\x00\0\0\0" + canvas
    yield "huge.webp", b"RIFF" + struct.pack("<I", 4 + len(vp8x) + len(webp)) + b"WEBP" + vp8x + webp


def bad():
    for name, encoded in huge_headers():
        yield name, encoded, "image_dimensions"
    jpeg = pillow(SMALL, "JPEG", quality=50)
    at = jpeg.index(b"\xff\xc0") + 5
    yield "zero_height.jpg", jpeg[:at] + b"\0\0" + jpeg[at + 2 :], "image_dimensions"
    yield "zero_width.jpg", jpeg[: at + 2] + b"\0\0" + jpeg[at + 4 :], "image_dimensions"
    whole = png(SMALL, 8, 2)
    for name, width, height in (("zero_width.png", 0, 4), ("zero_height.png", 4, 0)):
        header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        yield name, whole[:8] + header + whole[33:], "image_dimensions"
    bmp = pillow(SMALL[:8, :8], "BMP")
    yield "zero_width.bmp", bmp[:18] + struct.pack("<i", 0) + bmp[22:], "image_dimensions"
    gif = pillow(SMALL[:8, :8, 0], "GIF")
    yield "zero_height.gif", gif[:8] + b"\0\0" + gif[10:], "image_dimensions"
    progressive = pillow(SMALL, "JPEG", quality=50, progressive=True)
    webp = pillow(SMALL, "WEBP", quality=60)
    lossless = pillow(SMALL[:16, :16], "WEBP", lossless=True)
    tiff = pillow(SMALL[:16, :16], "TIFF")
    for stem, suffix, encoded in (
        ("jpeg", "jpg", jpeg), ("progressive", "jpg", progressive), ("png", "png", whole), ("webp", "webp", webp),
        ("webp_lossless", "webp", lossless), ("bmp", "bmp", bmp), ("gif", "gif", gif), ("tiff", "tif", tiff),
    ):
        ends = [len(encoded) // 2, len(encoded) * 9 // 10]
        if suffix in ("jpg", "png"):
            ends += [30, len(encoded) - 2]
        for end in ends:
            yield f"truncated_{stem}_{end}.{suffix}", encoded[:end], "truncated_image"
    broken = bytearray(jpeg)
    at = jpeg.index(b"\xff\xc4") + 5
    broken[at : at + 16] = b"\xff" * 16
    yield "huffman_table.jpg", bytes(broken), "corrupt_image"
    # A warning, then worse: libjpeg-turbo's error code and text then name one of the two.
    at = progressive.index(b"\xff\xc4", progressive.index(b"\xff\xda"))
    warned = bytearray(progressive[:at] + b"\x12\x34" + progressive[at:])
    yield "truncated_after_warning.jpg", bytes(warned[: len(warned) * 9 // 10]), "truncated_image"
    warned[at + 7 : at + 23] = b"\xff" * 16
    yield "huffman_table_after_warning.jpg", bytes(warned), "corrupt_image"
    broken = bytearray(whole)
    broken[60] ^= 0x55
    yield "checksum.png", bytes(broken), "corrupt_image"
    yield "tables_only.jpg", jpeg[: jpeg.index(b"\xff\xc0")] + b"\xff\xd9", "corrupt_image"
    yield "empty.bin", b"", "not_an_image"
    yield "garbage.bin", np.random.default_rng(3).integers(0, 256, 400, dtype=np.uint8).tobytes(), "not_an_image"
    yield "text.bin", b"this is a text and no image\n", "not_an_image"
    yield "header.avif", pillow(SMALL[:8, :8], "AVIF")[:64], "unsupported_image"
    yield "header.jp2", pillow(SMALL[:8, :8], "JPEG2000")[:64], "unsupported_image"
    yield "picture.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>', "unsupported_image"


def write(folder, name, content):
    path = HERE / folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def main():
    for folder in ("images", "expected", "bad"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
    images = {
        "face.jpg": pillow(FACE, "JPEG", quality=95),
        "astronaut.jpg": pillow(ASTRONAUT, "JPEG", quality=90),
    }
    for source in (jpegs(), pngs(), others(), odd_sizes()):
        images.update(source)
    cases, pictures = [], {}

    def case(file, rule, picture):
        stem = file if rule == "stretch" else f"{file}.{len(cases)}"
        write("expected", f"{stem}.png", pillow(picture, "PNG", optimize=True))
        height, width, _ = picture.shape
        cases.append(
            {
                "image": file,
                "oriented_size": [pictures[file].shape[1], pictures[file].shape[0]],
                "width": width,
                "height": height,
                "resize": rule,
                "expected": f"{stem}.png",
            }
        )

    for file, encoded in images.items():
        write("images", file, encoded)
        pictures[file] = decode(encoded)
        case(file, "stretch", stretch(pictures[file], SIZE))
    for file in ("astronaut.jpg", "jpeg_420.jpg", "jpeg_exif_6.jpg", "size_300x2.png", "size_1x7.png", "size_111x55.png"):
        picture = pictures[file]
        for size, fill in (((112, 112), [114, 114, 114]), ((80, 45), [0, 128, 255])):
            case(file, {"letterbox": {"fill": fill}}, letterbox(picture, size, fill))
        for size, shorter in (((112, 112), None), ((80, 45), None), ((56, 48), 64)):
            case(file, {"center_crop": {"resize_shorter_side": shorter}}, center_crop(picture, size, shorter))
    broken = []
    for file, encoded, reason in bad():
        write("bad", file, encoded)
        broken.append({"image": file, "reason": reason})
    manifest = {"opencv": cv2.__version__, "cases": cases, "bad": broken}
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")

    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    rows = []
    for file in ("face.jpg", "astronaut.jpg", "jpeg_420.jpg", "jpeg_exif_6.jpg", "png_rgb.png"):
        pixels = stretch(pictures[file], SIZE).astype(np.float32)
        tensor = ((pixels - 127.5) / 128).transpose(2, 0, 1)[None]
        (embedding,) = session.run(["embedding"], {"input": tensor})
        assert embedding.shape == (1, 192) and math.isfinite(float(embedding.sum()))
        rows.append({"image": file, "embedding": [float(f"{v:.8g}") for v in embedding[0]]})
    guard = [
        {
            "name": row["image"],
            "image_base64": base64.b64encode(images[row["image"]]).decode(),
            "outputs": {"embedding": row["embedding"]},
        }
        for row in rows
        if row["image"] in GUARD
    ]
    made_by = f"ONNX Runtime {onnxruntime.__version__} behind OpenCV {cv2.__version__} (tests/golden/make.py)"
    lines = ",\n".join(json.dumps(case) for case in guard)
    head = f'{{\n"format": 1,\n"made_by": {json.dumps(made_by)},\n"cases": [\n'
    MODEL.with_name("golden.json").write_text(f"{head}{lines}\n]}}\n")
    out = {"onnxruntime": onnxruntime.__version__, "input": "RGB, (level - 127.5) / 128, NCHW", "rows": rows}
    (HERE / "embeddings.json").write_text(json.dumps(out, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
