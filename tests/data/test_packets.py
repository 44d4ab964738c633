"""Packets: a video cut at keyframes without decoding, spans decoded from the rows of a shard, and what is encoded anew."""

from pathlib import Path

import numpy as np
import pytest

from dreamer_ray.data.codecs import H264, Jpeg, decode_jpeg, encode_h264, encode_jpeg
from dreamer_ray.data.layout import PictureLayout
from dreamer_ray.data.packets import CodedPacket, cut, decode_span, source_packets, unit_types
from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.data.video import pictures

LUANTI = str(next((Path(__file__).parent / "luanti").glob("*.mp4")))


def span(parameters, packets, first, count, **options):
    """Frames of the rows ``packets``, from the last keyframe's row at or before ``first``."""
    start = max(i for i, packet in enumerate(packets) if packet.keyframe and i <= first)
    return list(decode_span(parameters, (p.data for p in packets[start:]), first=first - start, count=count, name="x", **options))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("options", [{"bf": "0"}, {}, {"bf": "5", "g": "30"}], ids=["none", "two", "five"])
def test_spans_are_the_frames_of_the_video_whatever_the_order_of_packets(tmp_path, videos, suffix, options):
    path = str(videos.write(tmp_path / f"a.{suffix}", 60, **options))
    stream = source_packets(path)
    packets = list(stream.packets)
    assert sorted(packet.frame for packet in packets) == list(range(60))
    in_order = [packet.frame for packet in packets] == list(range(60))
    assert in_order == (options == {"bf": "0"})
    for first, count in [(0, 60), (0, 1), (59, 1), (11, 2), (12, 1), (17, 30)]:
        shown = [videos.number(picture) for picture in span(stream.parameters, packets, first, count)]
        assert shown == list(range(first, first + count)), (first, count)


def test_a_span_of_the_luanti_recording_is_what_its_video_shows():
    stream, shown = source_packets(LUANTI), list(pictures(LUANTI, count=140))
    packets = list(stream.packets)
    assert [i for i, packet in enumerate(packets) if packet.keyframe] == [0, 60, 120, 180]
    for first, count in [(3, 5), (60, 1), (119, 21)]:
        assert np.array_equal(span(stream.parameters, packets, first, count), shown[first : first + count])


def test_only_as_many_packets_are_read_as_a_span_needs(tmp_path, videos):
    stream = source_packets(str(videos.write(tmp_path / "a.mp4", 120, g="120")))
    read = []
    taken = (read.append(packet) or packet.data for packet in stream.packets)
    shown = list(decode_span(stream.parameters, taken, first=10, count=3, name="x"))
    assert [videos.number(picture) for picture in shown] == [10, 11, 12]
    assert len(read) <= 13 + 4, "two frames are coded from later ones"


def test_a_span_may_be_given_in_a_layout(tmp_path, videos):
    stream = source_packets(str(videos.write(tmp_path / "a.mp4", 5)))
    shown = span(stream.parameters, list(stream.packets), 2, 3, layout=PictureLayout(shape=(24, 64), fit="stretch"))
    assert [picture.shape for picture in shown] == [(24, 64, 3)] * 3
    assert [videos.number(picture) for picture in shown] == [2, 3, 4]


@pytest.mark.parametrize(("first", "stop"), [(0, 60), (1, 60), (12, 30), (13, 14), (5, 41), (0, 11), (50, 60)])
@pytest.mark.parametrize("options", [{"bf": "0"}, {}, {"bf": "5", "g": "30"}], ids=["none", "two", "five"])
def test_a_cut_begins_at_a_keyframe_and_misses_no_frame(tmp_path, videos, options, first, stop):
    stream = source_packets(str(videos.write(tmp_path / "a.mp4", 60, **options)))
    packets = list(cut(stream.packets, first, stop))
    every = int(options.get("g", 12))
    begin = -(-first // every) * every
    if begin >= stop:
        assert packets == []
        return
    numbers = sorted(packet.frame for packet in packets)
    assert packets[0].keyframe
    assert numbers == list(range(begin, begin + len(packets)))
    assert stop - int(options.get("bf", 2)) - 1 <= numbers[-1] + 1 <= stop
    shown = list(decode_span(stream.parameters, (p.data for p in packets), first=0, count=len(packets), name="x"))
    assert [videos.number(picture) for picture in shown] == numbers


def test_a_cut_holds_no_more_than_the_order_of_packets_needs():
    order = (frame for start in range(0, 10**6, 4) for frame in (start, start + 3, start + 1, start + 2))
    coming = cut((CodedPacket(b"", frame, frame % 400 == 0) for frame in order), 5, 10**6)
    assert [next(coming).frame for _ in range(3)] == [400, 403, 401]
    assert next(order) == 404


def test_a_keyframe_that_later_frames_look_past_is_not_one_to_begin_at(tmp_path, videos):
    path = str(videos.write(tmp_path / "a.mp4", 60, **{"x264-params": "open-gop=1:scenecut=0:keyint=12:min-keyint=12"}))
    stream = source_packets(path)
    packets = list(stream.packets)
    assert [i for i, packet in enumerate(packets) if packet.keyframe] == [0]
    assert sum(2 in unit_types(packet.data, stream.parameters.extradata) for packet in packets) == 0
    assert [videos.number(picture) for picture in span(stream.parameters, packets, 30, 4)] == [30, 31, 32, 33]


def test_packets_of_a_video_that_lies_on_its_side_are_refused_with_a_remedy(tmp_path, videos):
    with pytest.raises(BadRecordingError, match=r"a.mp4: lies on its side.* codec.kind = h264"):
        source_packets(str(videos.write(tmp_path / "a.mp4", 20, turns=-1)))


def test_another_codec_is_refused_by_name(tmp_path, videos):
    with pytest.raises(BadRecordingError, match=r"a\.mkv: holds vp9; only H\.264"):
        source_packets(str(videos.write(tmp_path / "a.mkv", 5, codec="libvpx-vp9")))


@pytest.mark.parametrize("shape", [(48, 64), (49, 64), (72, 72)])
def test_encoded_anew_packet_i_is_frame_i_and_keyframes_are_where_they_should_be(videos, shape):
    drawn = [videos.picture(number, shape) for number in range(50)]
    stream = encode_h264(iter(drawn), H264(keyframe_every=16), shape=shape, fps=20.0)
    packets = list(stream.packets)
    assert [packet.frame for packet in packets] == list(range(50))
    assert [packet.frame for packet in packets if packet.keyframe] == [0, 16, 32, 48]
    for first, count in [(0, 50), (15, 2), (40, 10)]:
        shown = np.stack(span(stream.parameters, packets, first, count))
        assert np.abs(shown.astype(int) - np.stack(drawn[first : first + count])).mean() < 8
        assert [videos.number(picture) for picture in shown] == list(range(first, first + count))


def test_encoding_takes_pictures_as_it_goes(videos):
    taken = []
    pictures_ = (taken.append(number) or videos.picture(number % 256) for number in range(10**6))
    stream = encode_h264(pictures_, H264(), shape=(48, 64), fps=20.0)
    for _ in range(5):
        next(stream.packets)
    assert len(taken) < 100


def test_a_lower_crf_is_nearer_to_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    wrong = []
    for crf in (5, 45):
        stream = encode_h264([picture], H264(crf=crf), shape=(48, 64), fps=20.0)
        wrong.append(np.abs(span(stream.parameters, list(stream.packets), 0, 1)[0].astype(int) - picture).mean())
    assert wrong[0] < wrong[1] - 5


def test_a_picture_of_another_shape_is_refused(videos):
    stream = encode_h264([videos.picture(0), videos.picture(0)[1:]], H264(), shape=(48, 64), fps=20.0)
    with pytest.raises(ValueError, match=r"picture 1: uint8 \(47, 64, 3\)"):
        list(stream.packets)


def test_jpeg_keeps_a_picture(videos):
    assert videos.number(decode_jpeg(encode_jpeg(videos.picture(77), Jpeg()), name="x")) == 77
    fine, coarse = (len(encode_jpeg(next(pictures(LUANTI)), Jpeg(quality=quality))) for quality in (95, 20))
    assert fine > 2 * coarse
    with pytest.raises(BadRecordingError, match="row 7: is no JPEG"):
        decode_jpeg(b"\xff\xd8nothing", name="row 7")


def test_the_same_pictures_give_the_same_bytes(videos):
    shown = [videos.picture(number) for number in range(12)]
    coded = {b"".join(packet.data for packet in encode_h264(shown, H264(), shape=(48, 64), fps=20.0).packets) for _ in range(80)}
    assert len(coded) == 1
