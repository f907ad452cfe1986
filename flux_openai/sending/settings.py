"""Settings: how a client and its copies treat FLUX calls."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import get_args

from flux_openai.errors import ConfigurationError, InvalidParam
from flux_openai.request.unsupported import Unsupported
from flux_openai.request.validation import check_defaults
from flux_openai.retry import RetryPolicy, RetryQuota

__all__ = ["Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a client and its copies treat FLUX calls."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    unsupported: Unsupported = "error"
    split: bool = False
    defaults: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    quota: RetryQuota = field(default_factory=RetryQuota, repr=False)

    @classmethod
    def of(
        cls,
        *,
        retry: RetryPolicy | None,
        unsupported: Unsupported,
        split: bool,
        defaults: Mapping[str, object] | None,
        max_retries: int | None,
    ) -> "Settings":
        """The settings of a new client. Raises ConfigurationError and InvalidParamsError."""
        return cls().changed(
            retry=retry, unsupported=unsupported, split=split, defaults=defaults, max_retries=max_retries
        )

    def changed(
        self,
        *,
        retry: RetryPolicy | None,
        unsupported: Unsupported | None,
        split: bool | None,
        defaults: Mapping[str, object] | None,
        max_retries: int | None,
    ) -> "Settings":
        """The settings of a copy; what is None stays. Raises ConfigurationError and InvalidParamsError."""
        policy = retry or self.retry
        if max_retries is not None:
            policy = policy.with_max_retries(max_retries)
        if unsupported is not None and unsupported not in get_args(Unsupported):
            rule = f"must be one of {', '.join(map(repr, get_args(Unsupported)))}"
            raise ConfigurationError.of(
                InvalidParam(param="unsupported", value=unsupported, rule=rule, nearest="error")
            )
        if split is not None and not isinstance(split, bool):
            raise ConfigurationError.of(InvalidParam(param="split", value=split, rule="must be True or False"))
        settings = replace(
            self,
            retry=policy,
            unsupported=unsupported or self.unsupported,
            split=self.split if split is None else split,
        )
        if defaults is None:
            return settings
        check_defaults(defaults, unsupported=settings.unsupported, split=settings.split)
        return replace(settings, defaults=MappingProxyType(dict(defaults)))
