"""The table of held-out figures: each beside its trivial baseline, and beside the targets that the tiny recipe is held to."""

from collections.abc import Mapping

from dreamer_ray.evaluation.metrics import NETWORK
from dreamer_ray.evaluation.report import Quality

Figures = Mapping[str, float]
OF = "action_log_prob_of_"


def quality_rows(figures: Figures) -> list[Quality]:
    """The rows of all figures that were measured."""
    lengths = {int(name.rsplit("_", 1)[1]) for name in figures if name.startswith("dream_psnr_at_")}
    dreams = [row for at in sorted(lengths) for row in _dream_rows(figures, at)]
    return _tokenizer_rows(figures) + dreams + _action_rows(figures) + _reward_rows(figures)


def _tokenizer_rows(figures: Figures) -> list[Quality]:
    psnr, mean_frame, blocks = (figures[name] for name in ("reconstruction_psnr", "mean_frame_psnr", "block_average_psnr"))
    metric, saturated = "reconstruction, PSNR in dB", figures["saturated"]
    alike = _likeness_rows(figures, "reconstruction", ("block_average", "block averages, as many numbers"), words="reconstruction")
    return [
        Quality(metric, psnr, "mean frame", mean_frame, "6 dB above", psnr >= mean_frame + 6),
        Quality(metric, psnr, "block averages, as many numbers", blocks, "3.5 dB above", psnr >= blocks + 3.5),
        *alike,
        Quality("share of saturated latents", saturated, "none", 0.0, "below 0.3", saturated < 0.3),
    ]


def _likeness_rows(figures: Figures, of: str, baseline: tuple[str, str], *, words: str, at: str = "") -> list[Quality]:
    """Structural similarity and perceptual distance with their network and the number of pictures; none where they were not measured."""
    (key, name), n = baseline, figures.get(f"{of}_n{at}", 0)
    kinds = {"ssim": f"{words}, SSIM (n = {n:.0f})", "lite0_distance": f"{words}, perceptual distance ({NETWORK}, n = {n:.0f})"}
    return [
        Quality(metric, figures[f"{of}_{kind}{at}"], name, figures[f"{key}_{kind}{at}"])
        for kind, metric in kinds.items()
        if f"{of}_{kind}{at}" in figures
    ]


def _dream_rows(figures: Figures, at: int) -> list[Quality]:
    name, copy, copied = f"{at} frame{'s' if at > 1 else ''} ahead", "copy of the last frame", "copied reconstruction"
    error = figures[f"error_over_copy_at_{at}"]
    target = ("at most 0.95", error <= 0.95) if at == 8 else (None, None)
    seen, tiles = figures[f"error_over_copy_in_reconstruction_at_{at}"], figures[f"error_over_copy_on_changed_tiles_at_{at}"]
    both = figures[f"error_over_copy_in_reconstruction_on_changed_tiles_at_{at}"]
    rows = [
        Quality(f"dream, {name}, PSNR in dB", figures[f"dream_psnr_at_{at}"], copy, figures[f"copy_psnr_at_{at}"]),
        *_likeness_rows(figures, "dream", ("copy", copy), words=f"dream, {name}", at=f"_at_{at}"),
        Quality(f"dream, {name}, error over copying", error, copy, 1.0, *target),
        Quality(f"the same against reconstructions, {name}", seen, copied, 1.0),
        Quality(f"error over copying on changed tiles, {name}", tiles, copy, 1.0),
        Quality(f"the same against reconstructions, on changed tiles, {name}", both, copied, 1.0),
    ]
    if (following := figures.get(f"action_following_at_{at}")) is None:
        return rows
    goal = ("at least 1.08", following >= 1.08) if at == 1 else (None, None)
    return [*rows, Quality(f"error under other actions over error, {name}", following, "actions ignored", 1.0, *goal)]


def _action_rows(figures: Figures) -> list[Quality]:
    if (marginal := figures.get("marginal_log_prob_agent")) is None:
        return []
    cloned = figures["action_log_prob_agent"]
    rows = [Quality("log-probability of recorded actions, nats", cloned, "marginal", marginal, "0.4 above", cloned - marginal >= 0.4)]
    for name in [key.removeprefix(OF).removesuffix("_agent") for key in figures if key.startswith(OF) and key.endswith("_agent")]:
        expected = figures[f"marginal_log_prob_of_{name}_agent"]
        rows.append(Quality(f"of them those of {name}, nats", figures[f"{OF}{name}_agent"], "marginal", expected))
    for variant, words in (("agent_scratch", "the same without world model"), ("imagination", "the same after imagination")):
        if (found := figures.get(f"action_log_prob_{variant}")) is not None:
            rows.append(Quality(words, found, "marginal", marginal))
    return rows


def _reward_rows(figures: Figures) -> list[Quality]:
    if (reward := figures.get("reward_cross_entropy_agent")) is None:
        return []
    entropy = figures["base_rate_cross_entropy_agent"]
    return [Quality("reward, cross-entropy in nats", reward, "base rate", entropy, "at most half", reward <= entropy / 2)]
