"""Settings of `video-inr`, and what they mean for a video: groups, networks and budgets."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from ..codec import CodecSettings
from ..errors import InvalidSettings
from .inr_exact import why_not_exact
from .inr_group import BITS_PER_PARAMETER, GroupPlan
from .inr_presets import PRESETS, Preset, spec_for
from .inr_stream import Layout, check_memory

__all__ = ["InrSettings", "layout_for", "plan_for"]

MIDDLE_BPP, BPP_OCTAVE = 0.06, 15  # bits per pixel at quality 50, and how many qualities double them
FEWEST_PARAMETERS = 1_500
GROUP_FRAMES = 64
NIRVANA_FRAMES = 6  # of each of the networks that share a group
KEY_SHARE = 3  # of a group's budget goes to its first network, beside 1 to each that starts from it
DEFAULT_SECONDS = 60.0
SCHEDULE, EXACT = "tiny", "hnerv"  # the preset whose schedule serves where none is given; the architecture with integers

Architecture = Literal["nerv", "hnerv", "nerv++", "nirvana", "boost"]
PresetName = Literal["tiny", "paper-0.35m", "paper-0.75m", "paper-1.5m", "paper-3m"]


class InrSettings(CodecSettings):
    """Settings of `video-inr`."""

    quality: int = Field(
        50, ge=0, le=100, description="0 (smallest file) to 100 (best picture): the networks' size and precision"
    )
    arch: Architecture | None = Field(None, description="the networks' architecture: a preset's, boost, or hnerv if exact")
    preset: PresetName | None = Field(None, description="an architecture, a size and a number of epochs")
    parameters: int | None = Field(
        None, ge=100, le=20_000_000, description="parameters of a group's network, in place of a preset's"
    )
    seconds: float | None = Field(
        None, gt=0, le=1e6, description="time for fitting, all groups together (60 without epochs or a preset)"
    )
    epochs: int | None = Field(None, ge=1, le=10**6, description="passes over the frames instead: the same file for a seed")
    steps: int | None = Field(None, ge=1, le=10**9, description="steps of each group's fit instead: the same file for a seed")
    seed: int = Field(0, ge=0, lt=2**31, description="of the networks' first parameters and the order of frames")
    frames: int | None = Field(None, ge=1, le=4096, description="frames of a group, about: 64; with a paper's preset all")
    exact: bool = Field(False, description="the same frames on every device, decoded several times slower")
    jobs: int = Field(0, ge=0, le=256, description="processes that fit groups; 0: one for each processor")
    checkpoint: str | None = Field(
        None,
        description="a folder that keeps fits: the same command again goes on from there, and other rates need no new fit",
        json_schema_extra={"local": True},  # a path of this machine: nothing that a service may be asked for
    )

    @property
    def architecture(self) -> str:
        """The networks' architecture."""
        if self.arch is None and self.exact:
            return EXACT
        return self.arch or PRESETS[self.preset or SCHEDULE].architecture

    @model_validator(mode="after")
    def _one_budget(self) -> InrSettings:
        given = [name for name in ("seconds", "epochs", "steps") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} contradict each other: give one")
        return self


def layout_for(settings: InrSettings, shape: tuple[int, ...], bpp: float | None = None) -> Layout:
    """Return the groups of a video of `shape` and their networks; `bpp`, where given, is what a file may take.

    Raises `InvalidSettings` for an exact profile of networks that have none, `LimitExceeded` for frames too large.
    """
    frames, height, width = shape[:3]
    wanted = settings.frames or (frames if (settings.preset or "").startswith("paper") else GROUP_FRAMES)
    groups = min(frames, max(1, round(frames / wanted)))
    longest = -(-frames // groups)
    parameters = _parameters(settings, longest * height * width, bpp)
    own = longest
    if settings.architecture == "nirvana":
        own = min(NIRVANA_FRAMES, longest)
        parameters = max(parameters * own // longest, FEWEST_PARAMETERS)
    spec = spec_for(settings.architecture, parameters, own, height, width)
    if settings.exact and (reason := why_not_exact(spec)):
        raise InvalidSettings(f"{settings.arch} has {reason}, so it has no exact profile; {EXACT} has one")
    check_memory(spec)
    return Layout(spec, frames, groups, settings.exact)


def _parameters(settings: InrSettings, pixels: int, bpp: float | None) -> int:
    if settings.parameters is not None:
        return settings.parameters
    if settings.preset is not None:
        return PRESETS[settings.preset].parameters
    if bpp is None:
        bpp = MIDDLE_BPP * 2.0 ** ((settings.quality - 50) / BPP_OCTAVE)
    return min(max(int(bpp * pixels / BITS_PER_PARAMETER), FEWEST_PARAMETERS), 20_000_000)


def plan_for(settings: InrSettings, layout: Layout, group: int, processes: int) -> GroupPlan:
    """Return how a group is fitted, `processes` at a time."""
    preset = PRESETS[settings.preset or SCHEDULE]
    spec, count = layout.spec_of(group), layout.networks(group)
    steps, seconds = _budget(settings, preset, layout, processes)
    shares = [float(KEY_SHARE)] + [1.0] * (count - 1) if count > 1 else [1.0]
    parts = [share / sum(shares) for share in shares]
    return GroupPlan(
        specs=(tuple(spec.to_params()),) * count,
        steps=tuple(math.ceil(steps * part) if steps else 0 for part in parts),
        seconds=tuple(0.0 if steps else seconds * part for part in parts),
        seed=settings.seed,
        batch=preset.batch,
        learning_rate=preset.learning_rate,
        loss="l2",
    )


def _budget(settings: InrSettings, preset: Preset, layout: Layout, processes: int) -> tuple[int, float]:
    """Return the steps of a group, or 0 and its seconds: groups that are fitted at once share the time."""
    if settings.steps is not None:
        return settings.steps, 0.0
    epochs = settings.epochs or (preset.epochs if settings.preset and settings.seconds is None else None)
    if epochs is not None:
        frames = -(-layout.frames // layout.groups)
        return epochs * -(-frames // preset.batch), 0.0
    turns = -(-layout.groups // processes)
    return 0, (settings.seconds or DEFAULT_SECONDS) / turns
