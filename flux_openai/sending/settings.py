"""Settings: the options that this package adds to a client, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypedDict, get_args

from openai import NotGiven

from flux_openai.errors import ConfigurationError, InvalidParam, listed
from flux_openai.request.unsupported import Unsupported
from flux_openai.request.validation import check_defaults
from flux_openai.retry import RetryPolicy, RetryQuota

__all__ = ["FluxOptions", "Settings"]


class FluxOptions(TypedDict, total=False):
    """The options that this package adds to a client, to its `copy` and to `with_options`; None leaves one as it is."""

    retry: RetryPolicy | None
    unsupported: Unsupported | None
    split: bool | None
    defaults: Mapping[str, object] | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of a client for FLUX calls.

    Attributes:
        retry: The retry policy.
        unsupported: What happens to options that the model does not take.
        split: Whether a call for more images than one request allows is split into several requests.
        defaults: Parameters for every call whose model takes them.
        quota: The retry quota, which the copies of a client share.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    unsupported: Unsupported = "error"
    split: bool = False
    defaults: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    quota: RetryQuota = field(default_factory=RetryQuota, repr=False)

    def changed(self, options: Mapping[str, Any]) -> "Settings":
        """A copy with the FLUX options and the `max_retries` among a client's options.

        Raises:
            ConfigurationError: An option is invalid.
            InvalidParamsError: The defaults are invalid.
        """
        unsupported, split = options.get("unsupported"), options.get("split")
        if unsupported is not None and unsupported not in get_args(Unsupported):
            rule = f"must be one of {listed(get_args(Unsupported))}"
            raise ConfigurationError.of(
                InvalidParam(param="unsupported", value=unsupported, rule=rule, nearest="error")
            )
        if split is not None and not isinstance(split, bool):
            raise ConfigurationError.of(InvalidParam(param="split", value=split, rule="must be True or False"))
        policy, max_retries = options.get("retry") or self.retry, options.get("max_retries")
        if max_retries is not None and not isinstance(max_retries, NotGiven):
            policy = policy.with_max_retries(max_retries)
        settings = replace(
            self,
            retry=policy,
            unsupported=unsupported or self.unsupported,
            split=self.split if split is None else split,
        )
        defaults = options.get("defaults")
        if defaults is None:
            return settings
        if not isinstance(defaults, Mapping) or not all(isinstance(name, str) for name in defaults):
            rule = "must be a mapping of parameter names to values"
            raise ConfigurationError.of(InvalidParam(param="defaults", value=defaults, rule=rule))
        check_defaults(defaults, unsupported=settings.unsupported, split=settings.split)
        return replace(settings, defaults=MappingProxyType(dict(defaults)))
