"""Recordings in a bucket, from a server that speaks the protocol of S3 on this machine: they are those of a folder."""

from pathlib import Path

import boto3
import numpy as np
import pytest
import requests
from moto.server import ThreadedMotoServer

from dreamer_ray.data.layout import PictureLayout
from dreamer_ray.data.lerobot import LeRobotConfig
from dreamer_ray.data.minari_sets import MinariConfig
from dreamer_ray.data.open_source import open_source
from dreamer_ray.data.sources import BadRecordingError
from dreamer_ray.data.videos import VideosConfig
from dreamer_ray.data.vpt import VptConfig, VptSource
from dreamer_ray.errors import UserError

LUANTI = Path(__file__).parent / "luanti"
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def bucket(monkeypatch):
    """An empty bucket called plays; AWS_ENDPOINT_URL is what users of other servers than Amazon's set."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    variables = {"ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "mine", "DEFAULT_REGION": "us-east-1", "EC2_METADATA_DISABLED": "true"}
    variables["ENDPOINT_URL"] = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    for name, value in variables.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="plays")
    yield client
    requests.post(f"{variables['ENDPOINT_URL']}/moto-api/reset", timeout=10)  # what it holds belongs to the process
    server.stop()


def read(path: str):
    source = VptSource(VptConfig(path=path))
    [recording] = source.index()
    reading = source.read(recording, PictureLayout(shape=(36, 64)))
    return reading.takes, np.stack(list(reading.pictures))


def test_a_recording_in_a_bucket_is_that_of_the_folder(bucket):
    for path in LUANTI.glob("luanti-*"):
        bucket.upload_file(str(path), "plays", f"contractors/of 2026/{path.name}")
    (found, shown), (wanted, pictures) = read("s3://plays/contractors"), read(str(LUANTI))
    assert np.array_equal(shown, pictures)
    assert len(found) == len(wanted) == 2
    for take, other in zip(found, wanted, strict=True):
        assert all(np.array_equal(take.actions[name], other.actions[name]) for name in ("keys", "mouse"))


def test_what_is_missing_in_a_bucket_is_named(bucket):
    with pytest.raises(UserError, match=r"s3://plays/contractors"):
        read("s3://plays/contractors")
    with pytest.raises(UserError, match=r"s3://other.*does not exist"):
        read("s3://other")
    for path in LUANTI.glob("luanti-*.mp4"):
        bucket.upload_file(str(path), "plays", path.name)
    with pytest.raises(BadRecordingError, match=r"there is no \.jsonl file of the same name"):
        read("s3://plays")


@pytest.mark.parametrize("path", ["s3://plays/clips", "https://example.org/clips", "gs://plays/clips"])
def test_what_is_read_from_folders_only_is_refused_elsewhere(path):
    for config in (
        VideosConfig(kind="videos", path=path),
        LeRobotConfig(kind="lerobot", path=path),
        MinariConfig(kind="minari", root=path, dataset="a/b-v0", fps=10),
    ):
        with pytest.raises(UserError, match=rf"{path}: recordings of kind {config.kind} are read from a folder.* mount it"):
            open_source(config)
