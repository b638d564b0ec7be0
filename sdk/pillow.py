"""Open and save .lcn pictures with Pillow.

    >>> import laconic.pillow
    >>> import io, PIL.Image
    >>> file = io.BytesIO()
    >>> PIL.Image.new("RGB", (64, 48), "teal").save(file, "LACONIC", codec="webp", quality=60)
    >>> with PIL.Image.open(file) as picture:
    ...     picture.format, picture.size, picture.mode
    ('LACONIC', (64, 48), 'RGB')

Importing this module registers the format: Pillow does not look for plugins by itself. The size is known when a file is
opened, the picture is decoded when its pixels are asked for. `save` takes the arguments of `laconic.encode`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import IO, Any

from PIL import Image as Pillow
from PIL import ImageFile

from .api import encode
from .codecs import compress, container
from .codecs.errors import LaconicError

__all__ = ["FORMAT", "LaconicImageFile"]

FORMAT = "LACONIC"
MODES = {(1, 8): "L", (2, 8): "LA", (3, 8): "RGB", (4, 8): "RGBA", (1, 16): "I;16"}
INFO = {"icc": "icc_profile", "exif": "exif", "xmp": "xmp"}


class LaconicImageFile(ImageFile.ImageFile):
    """A picture in an .lcn file; 16-bit colour has no mode in Pillow and is refused."""

    format = FORMAT
    format_description = "Laconic picture"

    def _open(self) -> None:
        assert self.fp is not None
        self._content: bytes | None = self.fp.read()
        try:
            description = container.describe(self._content)
        except LaconicError as error:
            raise SyntaxError(str(error)) from error  # what Pillow expects of a file that is not one
        kind = description.shape[2], description.bit_depth
        if len(description.shape) != 3 or kind not in MODES:
            raise SyntaxError(f"Pillow has no mode for {kind[0]} channels of {kind[1]} bits")
        height, width = description.shape[:2]
        self._size = width, height
        self._mode = MODES[kind]
        self.tile = []
        with suppress(LaconicError):  # a damaged payload is `load`'s to tell; size and mode are known
            metadata = container.read(self._content).metadata
            self.info |= {INFO[name]: payload for name, payload in metadata.items()}

    def load(self) -> Any:
        """Decode the picture, once; raises `OSError` for a damaged file, as Pillow's own plugins do."""
        if self._content is not None:
            try:
                signal = compress.decode(self._content)
            except LaconicError as error:
                raise OSError(f"the .lcn file does not decode: {error}") from error
            pixels = signal.array[:, :, 0] if signal.shape[2] == 1 else signal.array
            self.im = Pillow.fromarray(pixels).im
            self._content = None
        return super().load()


def _accept(prefix: bytes) -> bool:
    return container.is_laconic(prefix)


def _save(picture: Pillow.Image, file: IO[bytes], name: str | bytes) -> None:
    """Write a picture; the keywords of `save` are those of `laconic.encode`."""
    settings = dict(getattr(picture, "encoderinfo", {}))
    given = {name: settings.pop(name) for name in INFO.values() if name in settings}
    if given:
        picture = picture.copy()
        picture.info |= {name: value.tobytes() if isinstance(value, Pillow.Exif) else value for name, value in given.items()}
    file.write(encode(picture, **settings))


Pillow.register_open(FORMAT, LaconicImageFile, _accept)
Pillow.register_save(FORMAT, _save)
Pillow.register_extension(FORMAT, ".lcn")
Pillow.register_mime(FORMAT, "application/vnd.laconic")
