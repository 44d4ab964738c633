"""The robot's recipe in small, from what record-env writes to play in the environment, without Ray."""

from dataclasses import replace
from pathlib import Path

import torch

from dreamer_ray.config_file import load_config
from dreamer_ray.data.environment import EnvironmentRecording, record_environment
from dreamer_ray.data.ingest import ingest_plan, make_file
from dreamer_ray.data.latents import commit_latents, latent_schema, write_latents
from dreamer_ray.data.open_source import open_sources
from dreamer_ray.data.shards import commit_manifest, open_shards
from dreamer_ray.domain import domain_of
from dreamer_ray.evaluation.episodes import RandomPlayer, play
from dreamer_ray.imagination.session import ActingSession
from dreamer_ray.recipe import Recipe
from dreamer_ray.stages import Dreamer, acting_agent, encode_episode, feed, imagination, supervised, trained
from dreamer_ray.training.loop import Place, fit
from dreamer_ray.training.restore import restore_tokenizer

SAMPLE = Path(__file__).parents[1] / "configs" / "robot" / "sample.yaml"
SMALL = (
    *(f"{part}.fit.steps=2" for part in ("tokenizer", "dynamics", "agent", "imagination")),
    *("imagination.contexts.batch_size=4", "imagination.dreams_per_call=4", "imagination.horizon=3", "imagination.fit.checkpoint_every=2"),
    *("evaluation.length=50", "data.recordings.episode_frames=50"),
)


def recorded(recipe: Recipe, run: Path) -> None:
    environment, config = recipe.evaluation.environment, recipe.data.recordings
    assert environment is not None and config is not None and config.path is not None
    plan = EnvironmentRecording(environment=environment, task="upright", length=recipe.evaluation.length, episodes=4, noise=(0.0, 0.1))
    record_environment(plan, Path(config.path))
    ingest, sources = ingest_plan(config), open_sources(config)
    for split in ("train", "heldout"):
        folder = run / "record" / split
        made = [make_file(config, sources[job.source], ingest.schema, job, folder) for job in ingest.jobs if job.split == split]
        commit_manifest(folder, ingest.schema, made, made_by={}, parents={})


def train(stage: str, recipe: Recipe, run: Path) -> None:
    if stage == "imagination":
        phase, made_by = imagination(recipe, run)
        dreamer = Dreamer(recipe, run, acting_agent(run, "agent"), device="cpu")
        batches, config = (lambda first: (dreamer.dream(step, 0) for step in range(first, config.steps))), recipe.imagination.fit
    else:
        job, clips = supervised(stage, recipe, run), feed(stage, recipe, run)
        phase, made_by, config = job.phase, job.made_by, job.fit
        batches = lambda first: (clips.load(step, rank=0, world=1) for step in range(first, config.steps))  # noqa: E731
    fit(phase, batches, config, place=Place(run / stage / "checkpoints", lambda *_: None), made_by=made_by)


def encode(run: Path) -> None:
    checkpoint = trained(run, "tokenizer")
    tokenizer = restore_tokenizer(checkpoint)
    for split in ("train", "heldout"):
        source = open_shards(run / "record" / split)
        shape = latent_schema(source.schema, tokenizer.config.latents, tokenizer.config.channels)
        read = [source.read_episode(i) for i in range(len(source.episodes))]
        made = write_latents(
            run / "encode" / split, "a.parquet", [replace(e, frames=encode_episode(tokenizer, e.frames)) for e in read], shape
        )
        commit_latents(run / "encode" / split, shape, [made], made_by={}, parents={"tokenizer": checkpoint.fingerprint})


def test_from_the_recording_to_play_in_the_environment(tmp_path):
    recipe, run = load_config(Recipe, SAMPLE, [*SMALL, f"data.recordings.path={tmp_path / 'set'}"]), tmp_path / "run"
    recorded(recipe, run)
    shards = open_shards(run / "record" / "train")
    assert shards.schema.action_space == domain_of(recipe).action_space
    train("tokenizer", recipe, run)
    encode(run)
    for stage in ("dynamics", "agent", "imagination"):
        train(stage, recipe, run)
    domain, tokenizer = domain_of(recipe, shards.schema), restore_tokenizer(trained(run, "tokenizer"))
    assert domain.worlds is not None
    players = {name: ActingSession(tokenizer, acting_agent(run, name), seeds=[1, 2]) for name in ("agent", "imagination")}
    players["random"] = RandomPlayer(domain.action_space, torch.Generator().manual_seed(0))
    for player in players.values():
        results = play(player, [1_000_000, 1_000_001], domain.worlds)
        assert [(len(result.counts), result.steps, result.died) for result in results] == [(1, 50, False)] * 2
