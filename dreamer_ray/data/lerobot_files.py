"""The files of a LeRobot data set, of several episodes each: rows in Parquet, pictures in H.264; full ones are followed by the next."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

FILES_A_CHUNK = 1000


class RowFiles:
    """``data/chunk-000/file-000.parquet`` and so on below ``folder``, a row group an episode."""

    def __init__(self, folder: Path, file_bytes: int):
        self.folder, self.file_bytes, self.number = folder, file_bytes, -1
        self._writer: pq.ParquetWriter | None = None
        self._path = folder

    def add(self, columns: dict[str, np.ndarray]) -> dict[str, Any]:
        """Appends the rows of an episode; the result is where they lie, as the meta folder says it."""
        table = pa.table({name: _column(values) for name, values in columns.items()})
        if self._writer is None or self._path.stat().st_size >= self.file_bytes:
            self.close()
            self.number += 1
            self._path = _path(self.folder / "data", self.number, "parquet")
            self._writer = pq.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)
        return _place("data", self.number)

    def close(self) -> None:
        """Ends the file that is being written."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None


class VideoFiles:
    """``chunk-000/file-000.mp4`` and so on below the folder of ``camera``, one episode after the other, each begun with a keyframe."""

    def __init__(self, folder: Path, camera: str, *, fps: int, crf: int, file_bytes: int):
        self.folder, self.camera, self.fps, self.file_bytes, self.number = folder, camera, fps, file_bytes, -1
        # With threads (here or in the scaler), or with mbtree, which looks beyond the edges of small pictures, equal pictures would not
        # give equal files.
        self._options = {"crf": str(crf), "forced-idr": "1", "threads": "1", "x264-params": "mbtree=0:rc-lookahead=0"}
        self._scaler = VideoReformatter()
        self._open: tuple[OutputContainer, VideoStream] | None = None
        self._frames = self._bytes = 0

    def add(self, frames: UInt8[np.ndarray, "t y x 3"]) -> dict[str, Any]:
        """Appends the pictures of an episode; the result is where they lie, as the meta folder says it."""
        if self._open is None or self._bytes >= self.file_bytes:
            self.close()
            self._open = self._begin(frames.shape[1], frames.shape[2])
        container, stream = self._open
        first = self._frames
        for picture in frames:
            frame = self._scaler.reformat(av.VideoFrame.from_ndarray(picture, format="rgb24"), format=stream.pix_fmt, threads=1)
            frame.pts, frame.time_base = self._frames, Fraction(1, self.fps)
            frame.pict_type = PictureType.I if self._frames == first else PictureType.NONE
            packets = stream.encode(frame)
            container.mux(packets)
            self._frames += 1
            self._bytes += sum(packet.size for packet in packets)
        times = {"from_timestamp": first / self.fps, "to_timestamp": self._frames / self.fps}
        prefix = f"videos/{self.camera}"
        return _place(prefix, self.number) | {f"{prefix}/{name}": time for name, time in times.items()}

    def _begin(self, rows: int, columns: int) -> tuple[OutputContainer, VideoStream]:
        self.number, self._frames, self._bytes = self.number + 1, 0, 0
        container = av.open(str(_path(self.folder / "videos" / self.camera, self.number, "mp4")), "w")
        stream = container.add_stream("libx264", rate=self.fps, options=self._options)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = rows, columns, "yuv420p", self.fps
        return container, stream

    def close(self) -> None:
        """Ends the file that is being written."""
        if self._open is not None:
            container, stream = self._open
            container.mux(stream.encode(None))
            container.close()
        self._open = None


def _path(folder: Path, number: int, suffix: str) -> Path:
    chunk = folder / f"chunk-{number // FILES_A_CHUNK:03d}"
    chunk.mkdir(parents=True, exist_ok=True)
    return chunk / f"file-{number % FILES_A_CHUNK:03d}.{suffix}"


def _place(prefix: str, number: int) -> dict[str, Any]:
    return {f"{prefix}/chunk_index": number // FILES_A_CHUNK, f"{prefix}/file_index": number % FILES_A_CHUNK}


def _column(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
