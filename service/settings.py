"""The service's settings: one frozen model, read from `LACONIC_*` variables, that fails loudly."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from ..codecs.errors import InvalidSettings

__all__ = ["PREFIX", "ServiceSettings", "variable"]

PREFIX = "LACONIC_"


def _split(value: object) -> object:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def _nothing(value: object) -> object:
    return None if value == "" else value  # as `LACONIC_KEYS_FILE=` in a compose file gives it


class ServiceSettings(BaseModel):
    """Where the service listens and what it allows; every field is read from `LACONIC_<FIELD>`.

    Limits of bytes, pixels and frames are refused with 413, a full queue with 429, a late request with 504.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes a free port")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(default_factory=lambda: max(1, (os.cpu_count() or 1) // 2), ge=1, description="torch threads")
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, description="threads for what needs no device, processes for media"
    )
    codecs: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(default=(), description="ids served; empty serves all")
    max_body_bytes: int = Field(default=32 * 2**20, ge=1, description="bytes of one request's body")
    max_buffered_bytes: int = Field(default=512 * 2**20, ge=1, description="bytes of all bodies held at once")
    max_pixels: int = Field(default=64_000_000, ge=1, description="pixels of one picture, from its header")
    max_video_pixels: int = Field(default=128_000_000, ge=1, description="pixels of all frames of a video that are in memory")
    max_samples: int = Field(default=64_000_000, ge=1, description="samples of all channels of sound that is in memory")
    max_frames: int = Field(default=20_000, ge=1, description="frames of one video")
    queue_size: int = Field(default=64, ge=1, description="requests that may wait or run at once")
    max_batch: int = Field(default=8, ge=1, description="requests that the device codes together")
    batch_wait_ms: float = Field(default=2.0, ge=0, le=1000, description="how long a batch waits for company")
    request_timeout_s: float = Field(default=120.0, gt=0, description="from the end of the body to the answer")
    body_timeout_s: float = Field(default=30.0, gt=0, description="time to send the whole body")
    playground: bool = Field(default=True, description="whether /playground is there")
    sandbox: bool = Field(
        default=sys.platform == "linux", description="read and write media in processes that may do nothing else"
    )
    media_timeout_s: float = Field(default=30.0, gt=0, description="time to read or write one media file in a sandbox")
    drain_seconds: float = Field(default=30.0, ge=0, description="time that requests in flight get after SIGTERM")
    state_dir: Path | None = Field(default=None, description="folder of the jobs; without it they end with the service")
    job_store: Annotated[SecretStr | None, BeforeValidator(_nothing)] = Field(
        default=None,
        description="postgresql:// URL of the database that many machines keep their jobs in; without it state_dir",
    )
    blob_store: Annotated[str | None, BeforeValidator(_nothing)] = Field(
        default=None, description="s3://bucket/prefix of the bodies and results that many machines share; without it state_dir"
    )
    max_jobs: int = Field(default=1000, ge=0, description="jobs stored at once, finished ones included")
    max_job_bytes: int = Field(default=4 * 2**30, ge=0, description="bytes of all stored bodies and results")
    job_timeout_s: float = Field(default=21_600.0, gt=0, description="time that one attempt at a job may take")
    job_attempts: int = Field(default=3, ge=1, description="starts of one job, if the process dies each time")
    job_retention_s: float = Field(default=86_400.0, gt=0, description="time that a finished job's result is kept")
    job_lease_s: float = Field(default=15.0, ge=0.2, description="time after which the job of a dead process starts again")
    max_upload_bytes: int = Field(default=2**30, ge=0, description="bytes of one resumable upload")
    max_uploads: int = Field(default=100, ge=0, description="resumable uploads stored at once, complete ones included")
    upload_retention_s: float = Field(default=86_400.0, gt=0, description="time that an upload is kept, from its creation")
    webhook_secret: SecretStr | None = Field(default=None, description="signs webhooks; without it there are none")
    webhook_allow_private: bool = Field(default=False, description="whether webhooks may go to private addresses")
    keys_file: Annotated[Path | None, BeforeValidator(_nothing)] = Field(default=None, description="keys that may use it")
    insecure: bool = Field(default=False, description="whether it may listen beyond this machine without keys")
    header_timeout_s: float = Field(default=10.0, gt=0, description="time to send a request's headers")
    send_timeout_s: float = Field(default=30.0, gt=0, description="how long an answer may wait without being taken")
    max_connections: int = Field(default=2000, ge=1, description="connections open at once; more get 503")
    jobs: bool = Field(default=True, description="whether jobs are taken")
    ray_replicas: int = Field(default=1, ge=1, description="replicas on Ray, at least")
    ray_max_replicas: int | None = Field(default=None, ge=1, description="replicas at most; without it their number is fixed")
    ray_gpus_per_replica: float = Field(default=0.0, ge=0, description="part of a GPU for each replica, or whole ones")

    @property
    def shares_stores(self) -> bool:
        """Whether services on other machines can have the same jobs, uploads and blobs."""
        return self.job_store is not None and self.blob_store is not None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **overrides: Any) -> ServiceSettings:
        """Read the settings; `overrides` (a command line's options) win, those that are None do not count.

        Raises `InvalidSettings` that names the variable, also for a variable that looks like a misspelt one.
        """
        names = os.environ if environment is None else environment
        known = {variable(field): field for field in cls.model_fields}
        for name in names:
            if name.startswith(PREFIX) and name not in known and (near := get_close_matches(name, known, 1, 0.9)):
                raise InvalidSettings(f"{name} is not a setting; {near[0]} is")
        values: dict[str, Any] = {field: names[name] for name, field in known.items() if name in names}
        values |= {field: value for field, value in overrides.items() if value is not None}
        values.setdefault("state_dir", _state_dir(names))
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0])
            name = variable(field) if field in cls.model_fields else field
            raise InvalidSettings(f"{name} is {first['input']!r}: {first['msg']}") from error


def _state_dir(environment: Mapping[str, str]) -> Path | None:
    """Return the user's folder for what programs keep (XDG Base Directories); None where there is none to write into."""
    home = environment.get("HOME", "")
    base = Path(environment.get("XDG_STATE_HOME") or (home and f"{home}/.local/state"))
    if not base.is_absolute():
        return None
    there = next(folder for folder in (base, *base.parents) if folder.exists())
    return base / "laconic" if os.access(there, os.W_OK | os.X_OK) else None


def variable(field: str) -> str:
    """Return the environment variable of a field: `LACONIC_MAX_PIXELS` for `max_pixels`."""
    return PREFIX + field.upper()
