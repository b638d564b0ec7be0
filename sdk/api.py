"""The library's three verbs: `encode`, `decode` and `inspect`."""

from __future__ import annotations

import io
import math
import os
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .codecs import compress, container, media
from .codecs.compress import Target
from .codecs.container import Description
from .codecs.errors import InvalidSettings, UnsupportedMedia
from .codecs.limits import Limits
from .codecs.parts import FrameRange, SecondsRange, check_one_part, part_of, sound_of
from .codecs.registry import codec_class
from .codecs.settings import takes
from .codecs.signals import Audio, Image, Pictures, Signal, Video
from .sounds import audio_of_array, is_sound

if TYPE_CHECKING:
    import PIL.Image
    import torch
    from numpy.typing import NDArray

    # A path is a str or a PathLike; bytes are a media file's.
    Source = str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[Any] | PIL.Image.Image | torch.Tensor | Signal

PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
NEAREST_MODES = {"I;16B": "I;16", "I;16L": "I;16", "I;16N": "I;16", "La": "LA", "PA": "RGBA", "RGBa": "RGBA"}

__all__ = ["decode", "encode", "file_bytes", "inspect", "make_target", "media_bytes", "read_media", "read_source"]


def encode(
    source: Source,
    codec: str = "auto",
    *,
    target_psnr: float | None = None,
    target_bpp: float | None = None,
    target_bytes: int | None = None,
    target_kbps: float | None = None,
    rate: Fraction | float | None = None,
    device: str = "auto",
    known: NDArray[np.bool_] | None = None,
    **settings: object,
) -> bytes:
    """Compress a picture, a video or sound and return the bytes of an .lcn file.

    `source` is a path, the bytes of a media file (PNG, JPEG, WebP, MP4, WAV, MP3...), an array or torch tensor of shape H×W or
    H×W×C with uint8 or uint16 samples (C: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha), a `PIL.Image.Image`, an `Image`,
    a `Video` or an `Audio`. An array T×H×W×3 is a video of T frames, `rate` of them per second (25 unless given). An array C×N
    (or N) of int16, int32 (of 24 bits) or float32 (in ±1) is sound of C channels; its `rate` in Hz must be given.
    For `codec="image-circuit"` also an array N×H×W of small grey pictures of one size, W above 4; `known`, bool of H×W or
    N×H×W, then marks the samples that the receiver has already: they are left out, and `decode` needs them.
    Further keywords are the codec's settings, such as `quality` (0..100), `effort` or `lossless`. With one of the targets
    (dB, bits per pixel, bytes of the whole file, or its kbit per second of a video or sound) the quality is searched for;
    `codec="auto"` then returns the smallest file of all codecs that meets it.

    >>> import numpy
    >>> picture = numpy.zeros((32, 48), numpy.uint8)
    >>> len(encode(picture, codec="webp", quality=50)) < picture.size
    True

    Raises `InvalidSettings`, `UnsupportedMedia`, `CorruptMedia`, `LimitExceeded`, `WeightsMissing`, or the `OSError` of a
    path that does not open.
    """
    target = make_target(target_psnr, target_bpp, target_bytes, target_kbps)
    signal = _pictures(source, known) if codec == "image-circuit" and rate is None else None
    if known is not None and (signal is None or signal.known is None):
        raise InvalidSettings("`known` is for image-circuit and an array N×H×W of small grey pictures")
    return compress.encode(
        read_source(source, codec=codec, rate=rate) if signal is None else signal, codec, settings, target, device
    ).data


def decode(
    source: str | os.PathLike[str] | bytes,
    *,
    frames: FrameRange | None = None,
    seconds: SecondsRange | None = None,
    salvage: bool = False,
    device: str = "auto",
    limits: Limits | None = None,
    known: NDArray[np.uint8] | None = None,
) -> Signal:
    """Restore the picture, video or sound of an .lcn file, given its path or its bytes.

    The result's `array` is H×W×C (a picture encoded from H×W comes back as H×W×1), `metadata` holds ICC, EXIF and XMP,
    and `save(path)` writes PNG, WebP, JPEG and so on. Small pictures encoded together come back as `Pictures` with an `array`
    N×H×W; for a file that was made with known samples left out, `known` are those samples, uint8 of N×H×W (the others are not
    looked at). `limits` bounds what hostile bytes may ask for.

    A video comes back as `Video`, whose frames are decoded when they are asked for: `array` decodes all of them, each time, to
    T×H×W×3; what damage below the checksums raises comes then. `frames=(a, b)` is only the frames a .. b - 1, in memory and
    without sound, from the groups that hold them; None and numbers below 0 mean what they do in slices. With `salvage` groups
    of frames that are damaged are left out: their frames repeat the one before, and `lost` names them.

    Sound comes back as `Audio` in the same way: `array` is C×N of the dtype that was encoded, `seconds=(a, b)` is a part of
    it in memory, from the packets that hold it, and what damage takes with `salvage` is silent.

    >>> import numpy
    >>> decode(encode(numpy.zeros((32, 48), numpy.uint8), codec="webp")).array.shape
    (32, 48, 1)

    Raises `CorruptStream`, `TruncatedStream`, `LimitExceeded`, `WeightsMissing`, `WeightsMismatch`, and `InvalidSettings` for
    frames or seconds that are not there.
    """
    check_one_part(frames, seconds)
    limits, whole = limits or Limits(), frames is None and seconds is None
    signal = compress.decode(file_bytes(source), limits, device, known=known, salvage=salvage, whole=whole)
    if seconds is not None:
        return sound_of(signal, seconds, limits)
    if frames is None:
        return signal
    part = part_of(signal, frames)
    limits.check("max_video_pixels", part.pixels, "the number of pixels of the frames asked for")
    return part.frames(0, part.shape[0])


def inspect(source: str | os.PathLike[str] | bytes, *, limits: Limits | None = None) -> Description:
    """Describe an .lcn file, given its path or its bytes, without decoding it.

    >>> import numpy
    >>> description = inspect(encode(numpy.zeros((32, 48), numpy.uint8), codec="webp"))
    >>> description.codec, description.shape
    ('webp', (32, 48, 1))
    """
    return container.describe(file_bytes(source), limits or Limits())


def make_target(psnr: float | None, bpp: float | None, size: int | None, kbps: float | None) -> Target | None:
    """Return the target that is given, None without one; raises `InvalidSettings` for two."""
    given = [value for value in (psnr, bpp, size, kbps) if value is not None]
    if len(given) > 1:
        raise InvalidSettings("one target at a time: PSNR, bits per pixel, bytes or kbit per second")
    return Target(psnr=psnr, bpp=bpp, bytes=size, kbps=kbps) if given else None


def read_media(data: bytes, codec: str = compress.AUTO, limits: Limits | None = None) -> Signal:
    """Return the signal in a media file: of an animated GIF the first picture where `codec` takes pictures only.

    Of a video it is the sound where `codec` takes sound only.
    """
    limits = limits or Limits()
    limits.check("max_input_bytes", len(data), "the file's length in bytes")
    if codec == compress.AUTO or takes(codec_class(codec), "video"):
        return media.read(data, limits)
    if takes(codec_class(codec), "audio") and media.FORMATS[media.sniff(data)].signal == "video":
        return media.read(data, limits, "audio")
    return media.read(data, limits, "image" if media.sniff(data) == "gif" else None)


def read_source(
    source: Source, limits: Limits | None = None, codec: str = compress.AUTO, rate: Fraction | float | None = None
) -> Signal:
    """Return the signal that a source of any accepted kind holds, as `read_media`; `rate` is for arrays."""
    array = _array(source)
    if rate is not None and (array is None or array.ndim == 3):
        raise InvalidSettings("`rate` is for arrays T×H×W×3 and sound C×N: what else is a source has its own, or needs none")
    if isinstance(source, Image | Video | Audio):
        return source
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
        return read_media(file_bytes(source), codec, limits)
    if array is not None and (is_sound(array) or (rate is not None and array.ndim < 3)):
        return audio_of_array(array, rate)
    if array is not None:
        return _from_frames(array, 25 if rate is None else rate) if array.ndim == 4 else _from_array(array)
    if _is_pillow(source):
        return _from_pillow(cast("PIL.Image.Image", source))
    raise TypeError(f"media are a path, bytes, an array, a torch tensor or a PIL image, not {type(source).__name__}")


def media_bytes(source: Source, rate: Fraction | float | None = None) -> bytes:
    """Return the bytes of a media file that holds the source: its own for a path or bytes, else a lossless one."""
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview) and rate is None:
        return file_bytes(source)
    signal = read_source(source, rate=rate)
    return media.write(signal, "ffv1" if isinstance(signal, Video) else "wav" if isinstance(signal, Audio) else "png")


def file_bytes(source: str | os.PathLike[str] | bytes | bytearray | memoryview) -> bytes:
    """Return a file's bytes, given its path or them."""
    return Path(source).read_bytes() if isinstance(source, str | os.PathLike) else bytes(source)


def _array(source: object) -> NDArray[Any] | None:
    """Return numpy's view of an array or tensor; torch is looked at only where something has imported it already."""
    if isinstance(source, np.ndarray):
        return source
    torch_module = sys.modules.get("torch")
    if torch_module is not None and isinstance(source, torch_module.Tensor):
        return cast("NDArray[Any]", source.detach().cpu().numpy())
    return None


def _check_samples(array: NDArray[Any]) -> None:
    if array.dtype not in (np.uint8, np.uint16):
        raise UnsupportedMedia(f"samples are uint8 or uint16, not {array.dtype}: scale to 0..255 and convert")


def _from_frames(array: NDArray[Any], rate: Fraction | float) -> Video:
    _check_samples(array)
    if array.shape[3] != 3 or 0 in array.shape:
        last = {1: ": repeat the grey channel", 4: ": leave alpha out"}.get(array.shape[3], "")
        hint = ": move the channels last" if array.shape[1] == 3 else last
        raise UnsupportedMedia(f"a video is T×H×W×3, not {array.shape}{hint}")
    if not (math.isfinite(rate) and 2**-16 <= rate <= 2**16):
        raise InvalidSettings(f"`rate` is the number of frames per second, not {rate}")
    return Video.of(np.ascontiguousarray(array), rate)


def _from_array(array: NDArray[Any]) -> Signal:
    _check_samples(array)
    pixels = array[:, :, None] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4) or 0 in pixels.shape:
        hint = ": move the channels last" if array.ndim == 3 and array.shape[0] in (1, 2, 3, 4) else ""
        raise UnsupportedMedia(f"a picture is H×W or H×W×C with 1 to 4 channels, a video T×H×W×3, not {array.shape}{hint}")
    return Image(np.ascontiguousarray(pixels))


def _pictures(source: Source, known: NDArray[np.bool_] | None) -> Pictures | None:
    """Return the small grey pictures of an array N×H×W or of `Pictures`; None for any other source."""
    if isinstance(source, Pictures):
        return source if known is None else replace(source, known=known)
    array = _array(source)
    if array is None or array.ndim != 3 or array.shape[2] <= 4 or array.dtype != np.uint8 or 0 in array.shape:
        return None
    try:
        return Pictures(np.ascontiguousarray(array), known=known)
    except ValueError as error:
        raise InvalidSettings(str(error)) from error


def _is_pillow(source: object) -> bool:
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(source, module.Image)


def _from_pillow(picture: PIL.Image.Image) -> Signal:
    """Return a PIL image as any PNG is read: upright, palettes resolved, with its profile, EXIF and XMP."""
    from PIL.PngImagePlugin import PngInfo

    if picture.mode in ("F", "I"):
        raise UnsupportedMedia(f"PIL images of mode {picture.mode} are not read: convert to L, I;16, RGB or RGBA")
    profile = picture.info.get("icc_profile") if picture.mode not in ("CMYK", "LAB") else None
    texts = PngInfo()
    if xmp := picture.info.get("xmp"):
        texts.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else xmp)
    mode = picture.mode if picture.mode in PNG_MODES else NEAREST_MODES.get(picture.mode, "RGB")
    file = io.BytesIO()
    exif = picture.getexif().tobytes() if picture.getexif() else b""
    flat = picture if picture.mode == mode else picture.convert(mode)
    flat.save(file, "PNG", compress_level=1, exif=exif, icc_profile=profile, pnginfo=texts)
    return media.read(file.getvalue())
