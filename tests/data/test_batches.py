"""The plan of batches, and the counting set: every number is shown once an epoch, in the plan's order, to any number of workers."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dreamer_ray.data.batches import BatchConfig, BatchPlan, load, turn
from dreamer_ray.data.manifest import SourceNote
from dreamer_ray.data.shards import Origin, commit_manifest, open_shards, write_shard
from dreamer_ray.errors import UserError

LENGTHS = [13, 7, 20, 9]
EVENTS = {0: [(0, 0), (5, 0), (12, 1)], 1: [(1, 1)], 2: [(19, 0), (7, 1), (8, 1), (9, 1)], 3: [(0, 2)]}
MANY = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def source(tmp_path_factory, sets):
    return sets.make(tmp_path_factory.mktemp("set"), LENGTHS, events=EVENTS)


def plan_of(source, *, steps: int = 60, tasks=None, **config) -> BatchPlan:
    config = BatchConfig(**({"batch_size": 6, "length": 3} | config))
    return BatchPlan(source, config, steps=steps, tasks=tasks or source.schema.tasks)


def uniform_clips(plan, steps):
    return [(ref.episode, ref.start, ref.length) for step in range(steps) for ref in plan.refs(step) if not ref.relevant]


# ---- counting


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 4])
def test_counting(source, sets, world, start):
    """Workers that join at any step show, together and in rank order, the numbers of the plan; an epoch shows each once."""
    frames, steps = sum(LENGTHS), 20
    plan, reader = plan_of(source, batch_size=6, length=1), plan_of(source, batch_size=6, length=1)
    firsts = np.cumsum([0, *LENGTHS])
    order = [int(firsts[episode] + at) for episode, at, _ in uniform_clips(plan, steps)]
    assert sorted(order[:frames]) == list(range(frames))
    assert sorted(order[frames : 2 * frames]) == list(range(frames))
    assert order[:frames] != order[frames : 2 * frames]
    seen = []
    for step in range(start, steps):
        for rank in range(world):
            seen += sets.shown(load(source, reader, step, rank=rank, world=world))[:, 0].tolist()
    assert seen == order[start * 6 :]


@MANY
@given(length=st.integers(1, 7), batch=st.integers(1, 9), relevant=st.sampled_from([0.0, 0.25, 0.5]), seed=st.integers(0, 1000))
def test_an_epoch_never_repeats_a_frame(source, length, batch, relevant, seed):
    plan = plan_of(source, length=length, batch_size=batch, relevant_fraction=relevant if length > 1 else 0.0, seed=seed)
    total = int(plan.counts[length].sum())
    clips = uniform_clips(plan, 60)
    for epoch in range(len(clips) // total):
        frames = [(e, s + i) for e, s, n in clips[epoch * total : (epoch + 1) * total] for i in range(n)]
        assert len(set(frames)) == len(frames) == total * length
    for episode, start, n in clips:
        assert n == length
        assert 0 <= start <= LENGTHS[episode] - length


def test_every_start_of_a_clip_occurs(source):
    """Where clips begin changes from epoch to epoch, also in an episode that is a whole number of clips long."""
    clips = uniform_clips(plan_of(source, steps=400, length=5, batch_size=8), 400)
    for episode, length in enumerate(LENGTHS):
        assert {start for e, start, _ in clips if e == episode} == set(range(length - 5 + 1)), episode


# ---- a pure function of the seed and the step


MIXTURE = {"length": 3, "long_length": 6, "long_batch_size": 4, "long_fraction": 0.3, "relevant_fraction": 0.5, "final_long": 0.2}


@MANY
@given(order=st.permutations(range(30)), seed=st.integers(0, 9))
def test_any_step_can_be_asked_for_first(source, order, seed):
    plan, other = plan_of(source, steps=30, seed=seed, **MIXTURE), plan_of(source, steps=30, seed=seed, **MIXTURE)
    in_turn = [plan.refs(step) for step in range(30)]
    for step in order:
        assert other.refs(step) == in_turn[step]


def test_another_seed_is_another_plan(source):
    one, other = (plan_of(source, seed=seed, relevant_fraction=0.5) for seed in (0, 1))
    assert uniform_clips(one, 5) != uniform_clips(other, 5)
    drawn = [[(ref.task, ref.episode, ref.start) for step in range(5) for ref in plan.refs(step) if ref.relevant] for plan in (one, other)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_share_the_global_batch(source, sets, world):
    plan = plan_of(source, batch_size=8, **{**MIXTURE, "long_batch_size": 4})
    for step in range(12):
        whole = sets.shown(load(source, plan, step, rank=0, world=1))
        parts = [sets.shown(load(source, plan, step, rank=rank, world=world)) for rank in range(world)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_batch_that_cannot_be_shared(source):
    with pytest.raises(UserError, match=r"batch of 6 rows.*7 workers.*fewer workers"):
        load(source, plan_of(source), 0, rank=0, world=7)


# ---- short and long batches


def test_share_of_long_batches_and_the_last_part(source):
    plan = plan_of(source, steps=100, length=3, long_length=6, long_batch_size=2, long_fraction=0.1, final_long=0.2)
    shapes = [(len(refs), {ref.length for ref in refs}) for refs in map(plan.refs, range(100))]
    assert all(shape in ((6, {3}), (2, {6})) for shape in shapes)
    long = [shape[0] == 2 for shape in shapes]
    assert sum(long[:80]) == 8
    assert all(long[80:])


def test_short_and_long_batches_go_through_epochs_of_their_own(source):
    plan = plan_of(source, steps=100, **{**MIXTURE, "long_fraction": 0.4})
    for length in (3, 6):
        total = int(plan.counts[length].sum())
        clips = [clip for clip in uniform_clips(plan, 100) if clip[2] == length]
        assert len(clips) > 3 * total
        for epoch in range(len(clips) // total):
            frames = [(e, s + i) for e, s, n in clips[epoch * total : (epoch + 1) * total] for i in range(n)]
            assert len(set(frames)) == len(frames), (length, epoch)


def test_without_a_long_length_no_batch_is_long(source):
    plan = plan_of(source, steps=20, final_long=1.0)
    assert all(ref.length == 3 for step in range(20) for ref in plan.refs(step))


@pytest.mark.parametrize(
    "config",
    [
        {"long_length": 6},
        {"long_batch_size": 2},
        {"length": 1, "relevant_fraction": 0.5},
        {"relevant_fraction": 0.5, "long_length": 1, "long_batch_size": 2},
        {"batch_size": 0},
        {"label_fraction": 1.5},
    ],
)
def test_configurations_that_contradict_themselves(source, config):
    with pytest.raises(ValidationError):
        plan_of(source, **config)


# ---- relevant rows


@MANY
@given(length=st.integers(2, 7), seed=st.integers(0, 1000))
def test_a_relevant_clip_holds_its_event_and_the_frame_before(source, length, seed):
    plan = plan_of(source, length=length, relevant_fraction=0.5, seed=seed)
    for step in range(10):
        refs = plan.refs(step)
        assert sum(ref.relevant for ref in refs) == 3
        for ref in (ref for ref in refs if ref.relevant):
            assert 0 <= ref.start <= LENGTHS[ref.episode] - length
            frames = [frame - ref.start for frame, task in EVENTS[ref.episode] if task == ref.task]
            assert any(1 <= frame < length for frame in frames)


def test_with_a_lookahead_the_event_may_follow_the_clip(source):
    plan = plan_of(source, steps=200, length=2, lookahead=2, relevant_fraction=0.5)
    refs = [ref for step in range(200) for ref in plan.refs(step) if ref.relevant and (ref.task, ref.episode) == (0, 0)]
    assert {5 - ref.start for ref in refs} == {1, 2, 3}


def test_tasks_are_drawn_equally_often_and_events_lie_anywhere(source):
    """Task 0 has two events that can be used, task 1 five, task 2 none: its only one is in a first frame."""
    plan = plan_of(source, steps=400, length=4, relevant_fraction=0.5)
    refs = [ref for step in range(400) for ref in plan.refs(step) if ref.relevant]
    counts = np.bincount([ref.task for ref in refs], minlength=3)
    assert counts[2] == 0
    assert abs(counts[0] - counts[1]) < 4 * np.sqrt(len(refs))
    middle = [5 - ref.start for ref in refs if ref.task == 0 and ref.episode == 0]
    places = np.bincount(middle, minlength=4)
    assert places[0] == 0
    assert places[1:].min() > 0.25 * places[1:].sum()


@pytest.mark.parametrize("lookahead", [0, 2])
def test_enrichment_is_how_much_likelier_relevant_draws_give_a_clip(source, lookahead):
    """Against counts: of many rows of both kinds, by clip and prompt."""
    plan = plan_of(source, steps=20_000, length=6, lookahead=lookahead, batch_size=2, relevant_fraction=0.5)
    rng, rows = np.random.default_rng(0), 20_000
    drawn = Counter((ref.task, ref.episode, ref.start) for ref in (plan._relevant(6, rng) for _ in range(rows)))
    usual = Counter((ref.episode, ref.start) for ref in (plan._uniform(6, position, rng) for position in range(rows)))
    for task in range(3):
        for episode, length in enumerate(LENGTHS):
            for start in range(length - 5):
                found = plan._ref(episode, start, 6, task=task, relevant=False).enrichment
                expected = found * usual[episode, start] / rows / 3
                near = 5 * np.sqrt(expected / rows) + 5 * expected / np.sqrt(usual[episode, start])
                assert abs(drawn[task, episode, start] / rows - expected) <= near, (task, episode, start)


def test_enrichment_comes_with_the_rows(source):
    plan = plan_of(source, steps=30, length=6, relevant_fraction=0.5)
    refs = [ref for step in range(30) for ref in plan.refs(step)]
    assert all(ref.enrichment > 0 for ref in refs if ref.relevant)
    assert any(ref.enrichment > 0 for ref in refs if not ref.relevant)
    assert any(ref.enrichment == 0 for ref in refs if not ref.relevant)
    assert load(source, plan, 0, rank=0, world=1).notes.enrichment.tolist() == pytest.approx([ref.enrichment for ref in plan.refs(0)])


def test_rows_of_each_kind_alternate_so_that_every_rank_has_both(source):
    plan = plan_of(source, batch_size=8, relevant_fraction=0.5)
    assert [ref.relevant for ref in plan.refs(0)] == [False, True] * 4


def test_prompts_of_uniform_rows_spread_over_the_tasks(source):
    plan = plan_of(source, steps=300)
    counts = np.bincount([ref.task for step in range(300) for ref in plan.refs(step)], minlength=3)
    assert abs(counts - 600).max() < 4 * np.sqrt(1800 * 2 / 9)


def test_prompts_are_among_the_tasks_asked_for(source):
    plan = plan_of(source, tasks=["dig", "swim"], relevant_fraction=0.5)
    refs = [ref for step in range(40) for ref in plan.refs(step)]
    assert {ref.task for ref in refs if not ref.relevant} == {1, 2}
    assert {ref.task for ref in refs if ref.relevant} == {1}


def test_no_event_that_could_be_used(source):
    with pytest.raises(UserError, match="holds an event of any task"):
        plan_of(source, tasks=["swim"], relevant_fraction=0.5)


def test_a_task_that_the_set_does_not_know(source):
    with pytest.raises(UserError, match=r"no task fly; its tasks are chop, dig, swim"):
        plan_of(source, tasks=["chop", "fly"])


# ---- labels, short episodes


@pytest.mark.parametrize(("fraction", "labelled"), [(0.0, set()), (0.5, {0, 1}), (1.0, {0, 1, 2, 3})])
def test_label_fraction_takes_the_first_episodes(source, fraction, labelled):
    plan = plan_of(source, label_fraction=fraction, relevant_fraction=0.5)
    for step in range(30):
        refs = plan.refs(step)
        assert all(ref.label == (ref.episode in labelled) for ref in refs)
        notes = load(source, plan, step, rank=0, world=1).notes
        for row, ref in enumerate(refs):
            if not ref.label:
                assert not notes.labelled[row].any()
                assert not any(values[row].any() for values in notes.actions.values())


def test_short_episodes_are_left_out(source):
    clips = uniform_clips(plan_of(source, length=10), 60)
    assert {episode for episode, _, _ in clips} == {0, 2}


def test_no_episode_is_long_enough(source):
    with pytest.raises(UserError, match=r"no episode has 21 frames \(the longest has 20\)"):
        plan_of(source, length=21)


# ---- mixtures of sources


@settings(deadline=None)
@given(shares=st.lists(st.floats(0.01, 1), min_size=1, max_size=5), rows=st.integers(1, 300), first=st.integers(0, 10**6))
def test_every_row_is_somebodys_turn_and_shares_are_kept(shares, rows, first):
    shares = [share / sum(shares) for share in shares]
    turns = [turn(row, shares) for row in range(first, first + rows)]
    for number, share in enumerate(shares):
        mine = [before for who, before in turns if who == number]
        assert mine == list(range(mine[0], mine[0] + len(mine))) if mine else True, "none is left out and none comes twice"
        assert abs(len(mine) - share * rows) <= len(shares)


def mixture(folder, sets, shares, owners=(0, 1, 1, 0)):
    """The set of this module, whose episodes belong to sources with these shares."""
    files = sets.files(folder, LENGTHS, events=EVENTS)
    owner = iter(owners)
    files = [
        file.model_copy(update={"episodes": tuple(e.model_copy(update={"info": e.info | {"source": next(owner)}}) for e in file.episodes)})
        for file in files
    ]
    notes = tuple(SourceNote(kind="videos", place=str(i), share=share) for i, share in enumerate(shares))
    commit_manifest(folder, sets.schema, files, made_by={}, parents={}, origin=Origin(sources=notes))
    return open_shards(folder)


@pytest.mark.parametrize(("shares", "wanted"), [((0.25, 0.75), 0.25), ((0.5, None), 0.5), ((None, 0.5), 0.5)])
def test_rows_are_divided_by_shares_and_each_source_has_epochs_of_its_own(tmp_path, sets, shares, wanted):
    mixed = mixture(tmp_path, sets, shares)
    plan = plan_of(mixed, batch_size=8, length=3, relevant_fraction=0.25)
    for step in range(20):
        mine = sum(ref.episode in (0, 3) for ref in plan.refs(step) if not ref.relevant)
        assert abs(mine - 6 * wanted) <= 1, step
    clips = uniform_clips(plan, 60)
    assert abs(sum(episode in (0, 3) for episode, *_ in clips) - 360 * wanted) <= 1
    for owned in ((0, 3), (1, 2)):
        total = int(plan.counts[3][list(owned)].sum())
        taken = [clip for clip in clips if clip[0] in owned]
        for epoch in range(len(taken) // total):
            frames = [(e, s + i) for e, s, n in taken[epoch * total : (epoch + 1) * total] for i in range(n)]
            assert len(set(frames)) == len(frames) == 3 * total


def test_sources_without_shares_are_as_if_they_were_one(tmp_path, sets, source):
    one, other = plan_of(source, **MIXTURE), plan_of(mixture(tmp_path, sets, (None, None)), **MIXTURE)
    assert [one.refs(step) for step in range(30)] == [other.refs(step) for step in range(30)]


def test_a_mixture_can_be_asked_for_any_step_first(tmp_path, sets):
    mixed = mixture(tmp_path, sets, (0.3, 0.7))
    forwards, backwards = plan_of(mixed, **MIXTURE), plan_of(mixed, **MIXTURE)
    assert [forwards.refs(step) for step in range(30)] == [backwards.refs(step) for step in reversed(range(30))][::-1]


def test_a_source_with_a_share_and_no_clip_is_named(tmp_path, sets):
    mixed = mixture(tmp_path, sets, (0.3, 0.7), owners=(0, 1, 0, 0))
    with pytest.raises(UserError, match=r"source 1: no episode has 8 frames \(the longest has 7\)"):
        plan_of(mixed, length=8)


def test_a_set_without_tasks_has_no_prompts(tmp_path, sets):
    schema = sets.schema.model_copy(update={"tasks": ()})
    episodes = [replace(sets.episode(f"e{i}", n), events=np.zeros((n, 0), np.uint8)) for i, n in enumerate(LENGTHS)]
    commit_manifest(tmp_path, schema, [write_shard(tmp_path, "a.parquet", episodes, schema)], made_by={}, parents={})
    plan = BatchPlan(open_shards(tmp_path), BatchConfig(batch_size=4, length=3), steps=5, tasks=())
    clip = load(open_shards(tmp_path), plan, 0, rank=0, world=1)
    assert not clip.notes.rewards.any()
    assert clip.notes.labelled.any()
    with pytest.raises(UserError, match="event of any task"):
        BatchPlan(open_shards(tmp_path), BatchConfig(batch_size=4, length=3, relevant_fraction=0.5), steps=5, tasks=())


# ---- prompts as in play


def test_relevant_clips_of_due_tasks_end_before_their_event(source):
    """Of the events of the first two tasks only these came when they were next: frame 12 of episode 0 and frame 19 of episode 2."""
    config = BatchConfig(batch_size=6, length=3, lookahead=4, relevant_fraction=1.0)
    plan = BatchPlan(source, config, steps=60, tasks=source.schema.tasks[:2], due=True)
    found = {(ref.episode, ref.task, ref.start) for step in range(60) for ref in plan.refs(step)}
    assert found == {(0, 1, start) for start in range(6, 10)} | {(2, 0, start) for start in range(13, 17)}


def test_relevant_clips_of_a_due_task_end_after_the_task_before_it(tmp_path, sets):
    """The second task comes one frame after the first: no clip under its prompt ends before."""
    events = np.zeros((20, 2), np.uint8)
    events[[9, 10], [0, 1]] = 1
    schema = sets.schema.model_copy(update={"tasks": ("table", "pickaxe")})
    made = write_shard(tmp_path, "a.parquet", [replace(sets.episode("e", 20), events=events)], schema)
    commit_manifest(tmp_path, schema, [made], made_by={}, parents={})
    config = BatchConfig(batch_size=6, length=3, lookahead=5, relevant_fraction=1.0)
    plan = BatchPlan(open_shards(tmp_path), config, steps=60, tasks=schema.tasks, due=True)
    found = {(ref.task, ref.start) for step in range(60) for ref in plan.refs(step)}
    assert found == {(0, start) for start in range(2, 7)} | {(1, 7)}


def test_uniform_clips_have_the_prompt_that_is_due_where_they_end(source):
    plan = BatchPlan(source, BatchConfig(batch_size=6, length=3), steps=60, tasks=source.schema.tasks[:2], due=True)
    prompts = {}
    for ref in (ref for step in range(60) for ref in plan.refs(step)):
        prompts.setdefault(ref.episode, set()).add((ref.start + 2, ref.task))
    ends = {episode: {end for end, _ in found} for episode, found in prompts.items()}
    assert len(ends) == len(LENGTHS)
    assert prompts[0] == {(end, 1) for end in ends[0]}  # task 0 in the first frame, all from frame 12 on: the last one then
    assert prompts[1] == {(end, 0) for end in ends[1]}  # task 1 does not count before task 0
    assert prompts[2] == {(end, int(end == 19)) for end in ends[2]}
    assert 19 in ends[2]
    assert prompts[3] == {(end, 0) for end in ends[3]}


def test_due_tasks_that_nobody_achieved_are_told(source):
    config = BatchConfig(batch_size=6, length=3, relevant_fraction=1.0)
    with pytest.raises(UserError, match="event"):
        BatchPlan(source, config, steps=1, tasks=[source.schema.tasks[2], source.schema.tasks[1]], due=True)
