"""The dream engine: a running batch of worlds of static shape, advanced frame by frame, for imagination, evaluation and play alike.

    join (a context, in one pass) --> dream (K shortcut passes, the commit pass: states, heads; decoder) | observe (a real frame) --> leave

A world lives in a slot. Slots share every pass and nothing else: neither neighbours nor the slot change what is dreamed there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dreamer_ray.errors import UserError
from dreamer_ray.imagination.sampler import Pass, Sampling, commit_frame, commit_pass, prefill, sample_frame
from dreamer_ray.imagination.streams import RandomStreams
from dreamer_ray.imagination.tuning import Recording, lay_out
from dreamer_ray.models.agent import Agent
from dreamer_ray.models.distributions import draw_count
from dreamer_ray.models.dynamics import Conditioning, Dynamics
from dreamer_ray.models.tokenizer import Tokenizer
from dreamer_ray.types import Actions, Batch, LatentClip

DEFAULT = Sampling()
JOINING_TOKENS = 1024
"""Tokens that pass at once where contexts join, at least those of one: they stay in a CPU's cache, and memory does not grow with rows."""


@dataclass(frozen=True)
class Judgement(Batch):
    """What the agent makes of a frame."""

    states: Float[Tensor, "b d"]
    """``h_t``, on which the policy acts next."""
    rewards: Float[Tensor, "b"]
    """Expectation of ``r_t``, which arrives with the frame."""
    continues: Float[Tensor, "b"]
    """Probability that the episode goes on at the frame."""


@dataclass(frozen=True)
class Frame(Batch):
    """One frame of every slot; what stands in a free slot means nothing."""

    latents: Float[Tensor, "b l c"]
    """Clean latents of the tokenizer."""
    actions: Actions
    """``a_{t-1}``, which led to the frame."""
    judgement: Judgement | None
    """None without an agent."""
    pictures: Float[Tensor, "b y x 3"] | None
    """In 0 .. 1; None without a tokenizer."""


@dataclass(frozen=True)
class _Asked(Batch):
    """All that the next frame depends on but the caches."""

    actions: Actions
    known: Bool[Tensor, "b"]
    task: Int[Tensor, "b"]
    noise: Float[Tensor, "b 1 l c"]
    context_noise: Float[Tensor, "b 1 l c"] | None
    """Of the commit pass."""
    unwritten: Pass | None


@dataclass(frozen=True)
class _Made(Batch):
    frame: Frame
    unwritten: Pass | None


class DreamEngine:
    """``slots`` worlds of one dynamics. An ``agent`` acts in them and judges them; a ``tokenizer`` decodes every frame.

    Without an agent nobody waits for the commit pass of a frame: it is done with the first step of the next one. With ``graph`` (on a
    GPU) the kernels of ``dream`` are recorded at its first call, for every sampling that is asked for; raises ``UserError`` elsewhere.

    Nothing grows while it runs, but for a recording by each new sampling. What is in memory says ``memory``; a context that joins needs
    more for a moment.
    """

    def __init__(
        self, dynamics: Dynamics, *, slots: int, agent: Agent | None = None, tokenizer: Tokenizer | None = None, graph: bool = False
    ):
        self.dynamics, self.agent, self.tokenizer, self.graph = dynamics, agent, tokenizer, graph
        self.device = dynamics.positions.device
        if graph and self.device.type != "cuda":
            raise UserError(f"a CUDA graph of a frame needs a GPU, and the model is on {self.device}; leave graph out")
        for model in (dynamics, tokenizer):
            lay_out(model)
        self.cache = dynamics.new_cache(slots)
        self.decoder_cache = None if tokenizer is None else tokenizer.new_decoder_cache(slots)
        self.streams = RandomStreams([0] * slots, self.device)
        self.task = torch.zeros(slots, dtype=torch.long, device=self.device)
        self.states = torch.zeros(slots, dynamics.config.transformer.width, dtype=dynamics.positions.dtype, device=self.device)
        """``h_t`` of the newest frame of each slot."""
        self.free = list(range(slots))
        self._unwritten: Pass | None = None
        """The commit of the newest frame, while the cache does not hold it."""
        self._recordings: dict[tuple[int, bool, int, bool], Recording[_Asked, _Made]] = {}
        self._pool = torch.cuda.graph_pool_handle() if graph else None

    def memory(self) -> int:
        """Bytes while it dreams, with frozen weights and without a graph.

        That is the weights, once more those of the passes where they are packed or of eight bits, the caches, and what one pass holds
        (``Transformer.step_numbers``). A cache has ``2 * time
        layers * slots * tokens * kv_heads * (context + 1) * head width`` numbers. A pass is over one frame of all slots, over two where
        the commit waits for the next step (without an agent).
        """
        slots, dynamics = len(self.streams.rows), self.dynamics
        frames = slots if self.agent is not None else 2 * slots
        passes = [(dynamics.transformer, dynamics.transformer.step_numbers(frames, dynamics.layout.total))]
        kept = [*(self.agent or dynamics).parameters(), *dynamics.transformer.laid_out(), *self.cache.tensors()]
        if self.tokenizer is not None and self.decoder_cache is not None:
            decoder = self.tokenizer.decoder
            passes.append((decoder, decoder.step_numbers(slots, self.tokenizer.layout.total)))
            kept += [*self.tokenizer.parameters(), *decoder.laid_out(), *self.decoder_cache.tensors()]
        held = max(numbers * transformer.norm.weight.element_size() for transformer, numbers in passes)
        return held + sum(tensor.numel() * tensor.element_size() for tensor in kept)

    @torch.no_grad()
    def join(self, context: LatentClip, seeds: Sequence[int], *, sampling: Sampling = DEFAULT) -> list[int]:
        """Begins a world after each row of ``context`` and returns their slots; a world's random numbers are those of its seed.

        Raises ``UserError`` where fewer slots are free or seeds are not as many as rows; no slot is taken then.
        """
        rows, device = context.latents.shape[0], self.device
        if len(seeds) != rows:
            raise UserError(f"{rows} worlds cannot join with {len(seeds)} seeds: each has its own")
        if rows > len(self.free):
            raise UserError(f"{rows} worlds cannot join: {len(self.free)} of {len(self.streams.rows)} slots are free")
        self._write()
        slots = self.free[:rows]
        for slot, seed in zip(slots, seeds, strict=True):
            self.streams.restart(slot, seed)
        where = torch.tensor(slots, device=device)
        self.task = self.task.index_copy(0, where, context.notes.task)
        noise = self.streams.normal(*context.latents.shape[1:], rows=slots)
        together = max(1, JOINING_TOKENS // (noise.shape[1] * self.dynamics.layout.total))
        for first in range(0, rows, together):
            part = slice(first, first + together)
            self._take_in(context.rows(part), where[part], noise[part], sampling.context_signal)
        self.free = self.free[rows:]
        return slots

    def leave(self, slots: Sequence[int]) -> None:
        """Ends the worlds in ``slots``, which others may join then."""
        self.free = sorted({*self.free, *slots})

    def act(self, *, sampling: Sampling = DEFAULT) -> Actions:
        """Actions ``[b ...]`` that the policy draws on the newest frames."""
        assert self.agent is not None, "an engine without an agent does not act"
        uniform = self.streams.uniform(draw_count(self.dynamics.actions.space))
        with torch.no_grad():
            return self.agent.policy.now(self.states).sample(uniform, sampling.temperature)

    @torch.no_grad()
    def dream(self, actions: Actions, *, known: Bool[Tensor, "b"] | None = None, sampling: Sampling = DEFAULT) -> Frame:
        """The next frame of every slot under ``actions [b ...]``, or under whatever action where they are not ``known``."""
        if known is None:
            known = torch.ones(len(self.task), dtype=torch.bool, device=self.device)
        shape, actions = (1, *self.dynamics.latent_mean.shape), {name: actions[name] for name in self.dynamics.actions.space}
        noise = self.streams.normal(*shape)
        asked = _Asked(actions, known, self.task, noise, self.streams.normal(*shape) if sampling.commit else None, self._unwritten)
        made = self._recorded(asked, sampling) if self.graph else self._next(asked, sampling)
        self._unwritten = made.unwritten
        if made.frame.judgement is not None:
            self.states = made.frame.judgement.states
        return made.frame

    @torch.no_grad()
    def observe(
        self, latents: Float[Tensor, "b 1 l c"], actions: Actions, known: Bool[Tensor, "b"], *, sampling: Sampling = DEFAULT
    ) -> None:
        """Takes ``latents`` of the tokenizer as the next frame of every slot, led to by ``actions`` where ``known``."""
        self._write()
        clean = self.dynamics.standardize(latents)
        told = Conditioning({name: value.unsqueeze(1) for name, value in actions.items()}, known.unsqueeze(1), self._prompt(self.task, 1))
        noise = self.streams.normal(*clean.shape[1:])
        committing = commit_pass(self.dynamics, told, latents=clean, noise=noise, signal=sampling.context_signal)
        states = commit_frame(self.dynamics, self.cache, committing)
        if states is not None:
            self.states = states

    def _next(self, asked: _Asked, sampling: Sampling) -> _Made:
        told = Conditioning({name: value.unsqueeze(1) for name, value in asked.actions.items()}, asked.known.unsqueeze(1))
        prompted = replace(told, agent=self._prompt(asked.task, 1))
        first = told if sampling.commit else prompted
        done = sample_frame(self.dynamics, self.cache, first, steps=sampling.steps, noise=asked.noise, before=asked.unwritten)
        unwritten = states = None
        if asked.context_noise is not None:
            level = sampling.context_signal
            committing = commit_pass(self.dynamics, prompted, latents=done.latents, noise=asked.context_noise, signal=level)
            if self.agent is None:
                unwritten = committing
            else:
                states = commit_frame(self.dynamics, self.cache, committing)
        else:
            self.cache.advance()
            states = None if done.states is None else done.states[:, 0]
        return _Made(self._frame(self.dynamics.restore(done.latents), asked.actions, states), unwritten)

    def _recorded(self, asked: _Asked, sampling: Sampling) -> _Made:
        level = self.dynamics.config.signal_level(sampling.context_signal)
        key = (sampling.steps, sampling.commit, level, asked.unwritten is None)
        if key not in self._recordings:
            caches = [self.cache, *([] if self.decoder_cache is None else [self.decoder_cache])]
            self._recordings[key] = Recording(
                lambda given: self._next(given, sampling), asked, clocks=[cache.frame for cache in caches], pool=self._pool
            )
        return self._recordings[key](asked)

    def _take_in(self, context: LatentClip, where: Int[Tensor, "r"], noise: Float[Tensor, "r t l c"], signal: float | None) -> None:
        prompt, cache = self._prompt(context.notes.task, noise.shape[1]), self.dynamics.new_cache(len(where))
        states = prefill(self.dynamics, context, noise=noise, agent=prompt, cache=cache, signal=signal)
        self.cache.put(where, cache)
        if states is not None:
            self.states = self.states.index_copy(0, where, states[:, -1])  # in place it would change frames handed out
        if self.tokenizer is not None and self.decoder_cache is not None:
            cache = self.tokenizer.new_decoder_cache(len(where))
            self.tokenizer.decode(context.latents, cache=cache)
            self.decoder_cache.put(where, cache)

    def _write(self) -> None:
        if self._unwritten is not None:
            commit_frame(self.dynamics, self.cache, self._unwritten)
            self._unwritten = None

    def _prompt(self, task: Tensor, frames: int) -> Tensor | None:
        return None if self.agent is None else self.agent.prompt(task, frames)

    def _frame(self, latents: Float[Tensor, "b 1 l c"], actions: Actions, states: Tensor | None) -> Frame:
        judgement = pictures = None
        if self.agent is not None and states is not None:
            judgement = Judgement(states, self.agent.reward.now(states).mean, self.agent.continues.probability(states))
        if self.tokenizer is not None:
            pictures = self.tokenizer.decode(latents, cache=self.decoder_cache)[:, 0].clamp(0, 1)
        return Frame(latents[:, 0], actions, judgement, pictures)
