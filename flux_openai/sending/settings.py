"""Settings: the options that this package adds to a client, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypedDict, get_args

from openai import NOT_GIVEN, NotGiven

from flux_openai.errors import ConfigurationError, InvalidParam, listed
from flux_openai.request.modes import Unsupported
from flux_openai.retry import RetryPolicy, RetryQuota

if TYPE_CHECKING:
    from flux_openai.models import FluxModel, Price

__all__ = ["FluxOptions", "Settings"]


class FluxOptions(TypedDict, total=False):
    """The options that this package adds to a client, to its `copy` and to `with_options`; None leaves one as it is."""

    retry: RetryPolicy | None
    unsupported: Unsupported | None
    split: bool | None
    defaults: Mapping[str, object] | None
    allow_http: bool | None
    prices: "Mapping[str, Price | str] | None"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of a client for FLUX calls.

    Attributes:
        retry: The retry policy.
        unsupported: What happens to options that the model does not take.
        split: Whether a call for more images than one request allows is split into several requests.
        defaults: Parameters for every call whose model takes them.
        allow_http: Whether the base_url may be plain http beyond loopback.
        prices: The prices of one image by the full name of the model, where they replace those of the table.
        quota: The retry quota, which the copies of a client share.
        key_source: Where the client's key came from, for the error of a 401.
        default_http_client: Whether the HTTP client is the SDK's own, of which there may be more: nobody has set it up.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    unsupported: Unsupported = "error"
    split: bool = False
    defaults: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    allow_http: bool = False
    prices: "Mapping[str, Price]" = field(default_factory=lambda: MappingProxyType({}))
    quota: RetryQuota = field(default_factory=RetryQuota, repr=False)
    key_source: str = "MODELVERSE_API_KEY"
    default_http_client: bool = True

    def changed(self, options: Mapping[str, Any]) -> "Settings":
        """A copy with the FLUX options and the `max_retries` among a client's options.

        Raises:
            ConfigurationError: An option is invalid.
            InvalidParamsError: The defaults are invalid.
        """
        given = {name: options[name] for name in FluxOptions.__annotations__ if options.get(name) is not None}
        policy, unsupported = given.get("retry", self.retry), given.get("unsupported", self.unsupported)
        if not isinstance(policy, RetryPolicy):
            rule = "must be a RetryPolicy; the short form for N retries is max_retries=N"
            nearest = f"max_retries={policy}" if type(policy) is int and 0 <= policy < 1000 else None
            raise ConfigurationError.of(InvalidParam(param="retry", value=policy, rule=rule, nearest=nearest))
        if unsupported not in (modes := get_args(Unsupported)):
            from difflib import get_close_matches  # for this error alone

            close = get_close_matches(unsupported.lower(), modes, n=1) if isinstance(unsupported, str) else []
            rule, nearest = f"must be one of {listed(modes)}", close[0] if close else None
            raise ConfigurationError.of(
                InvalidParam(param="unsupported", value=unsupported, rule=rule, nearest=nearest)
            )
        for name in ("split", "allow_http"):
            if name in given and not isinstance(given[name], bool):
                raise ConfigurationError.of(InvalidParam(param=name, value=given[name], rule="must be True or False"))
        max_retries = options.get("max_retries", NOT_GIVEN)
        if not isinstance(max_retries, NotGiven):
            policy = policy.with_max_retries(max_retries)
        settings = replace(
            self,
            retry=policy,
            unsupported=unsupported,
            split=given.get("split", self.split),
            allow_http=given.get("allow_http", self.allow_http),
            key_source=_key_source(options.get("api_key")) or self.key_source,
            default_http_client=self.default_http_client and options.get("http_client") is None,
        )
        if "prices" in given:
            from flux_openai.request.model_choice import checked_prices  # see below

            settings = replace(settings, prices=checked_prices(given["prices"]))
        if "defaults" not in given:
            return settings
        defaults = given["defaults"]
        if not isinstance(defaults, Mapping) or not all(isinstance(name, str) for name in defaults):
            rule = "must be a mapping of parameter names to values"
            raise ConfigurationError.of(InvalidParam(param="defaults", value=defaults, rule=rule))
        from flux_openai.request.validation import check_defaults  # loads all of validation, which no client needs yet

        check_defaults(defaults, unsupported=settings.unsupported, split=settings.split)
        return replace(settings, defaults=MappingProxyType(dict(defaults)))

    def price_of(self, model: "FluxModel") -> "Price | None":
        """The price of one image of a model; None if it is not known."""
        return self.prices.get(model.id, model.price)


def _key_source(api_key: object) -> str | None:
    if api_key is None:
        return None
    return "the function given as api_key=" if callable(api_key) else "the argument api_key="
