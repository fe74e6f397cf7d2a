"""Usage groups: the selected calls by provider, by provider key, by model and by agent, a page of each at a time.

A group whose calls all failed is one as well. Source: contract analytics.md 4.1, 4.4.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ironcage_core.domain.usage import UsageSums, combined
from ironcage_core.ports.lists import Page, Paging, UsageDimension
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.made_rows import sorted_page
from ironcage_core.services.usage_selection import Selection, sums_by

ProviderGroups = Literal["provider", "provider_id"]


class ProviderUsage(NamedTuple):
    """The calls to one provider, or those of one key of it: on which keys, by which agents, and their sums."""

    provider: str
    provider_ids: tuple[str, ...]
    agent_ids: Collection[str]
    sums: UsageSums

    @property
    def agents(self) -> int:
        """By how many agents."""
        return len(self.agent_ids)


class ModelUsage(NamedTuple):
    """The calls of one model of one provider: on which keys, and their sums."""

    model: str
    provider: str
    provider_ids: tuple[str, ...]
    sums: UsageSums


class TokenUser(NamedTuple):
    """The calls of one agent, or to one provider."""

    key: str
    sums: UsageSums


@dataclass(frozen=True, slots=True)
class TokenUsers:
    """One page of agents or providers, the names of the agents on it, and the sums over the calls of all of them."""

    page: Page[TokenUser]
    names: Mapping[str, str]
    total: UsageSums


def provider_groups(uow: UnitOfWork, chosen: Selection, by: ProviderGroups = "provider") -> Sequence[ProviderUsage]:
    """Return the calls by provider name, or by provider name and key, in no order."""
    width = 1 if by == "provider" else 2
    agents: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for *key, agent_id in _users(uow, chosen, width):
        agents[tuple(key)].add(agent_id)
    return [
        ProviderUsage(key[0], _keys_of(part[1] for part in parts), agents[key], combined(parts.values()))
        for key, parts in _gathered(sums_by(uow, chosen, "provider", "provider_id"), width).items()
    ]


def provider_page(groups: Iterable[ProviderUsage], paging: Paging, *, descending: bool = True) -> Page[ProviderUsage]:
    """Return one page of providers, the costliest first unless told otherwise."""
    return sorted_page(groups, paging, lambda row: row.sums.cost_micros, tie=lambda row: row[:2], descending=descending)


def model_groups(uow: UnitOfWork, chosen: Selection) -> Sequence[ModelUsage]:
    """Return the calls by model and provider, in no order."""
    groups = _gathered(sums_by(uow, chosen, "model", "provider", "provider_id"), 2)
    return [
        ModelUsage(model, provider, _keys_of(part[2] for part in parts), combined(parts.values()))
        for (model, provider), parts in groups.items()
    ]


def model_page(groups: Iterable[ModelUsage], paging: Paging, *, descending: bool = True) -> Page[ModelUsage]:
    """Return one page of models, the ones with most completed calls first unless told otherwise."""
    return sorted_page(groups, paging, lambda row: row.sums.completed, tie=lambda row: row[:2], descending=descending)


def token_users(
    uow: UnitOfWork,
    chosen: Selection,
    paging: Paging,
    by: Literal["agent_id", "provider"],
    *,
    descending: bool = True,
) -> TokenUsers:
    """Return one page of the agents or the providers with a call, most tokens first unless told otherwise."""
    rows = [TokenUser(key[0], sums) for key, sums in sums_by(uow, chosen, by).items()]
    page = sorted_page(rows, paging, lambda row: row.sums.total_tokens, tie=lambda row: row.key, descending=descending)
    names = uow.agents.names([row.key for row in page.rows]) if by == "agent_id" else {}
    return TokenUsers(page, names, combined([row.sums for row in rows]))


def only_key(provider_ids: Sequence[str]) -> str | None:
    """Return the provider key of a group, if it is exactly one."""
    return provider_ids[0] if len(provider_ids) == 1 else None


def _users(uow: UnitOfWork, chosen: Selection, width: int) -> Collection[tuple[str, ...]]:
    """Return which agents called which provider, or which key of it; without sums, which are kept for all agents."""
    by: tuple[UsageDimension, ...] = ("provider", "provider_id")
    return () if chosen.which is None else uow.usage.groups(chosen.which, (*by[:width], "agent_id"))


def _gathered(
    cells: Mapping[tuple[str, ...], UsageSums], width: int
) -> Mapping[tuple[str, ...], dict[tuple[str, ...], UsageSums]]:
    """Return the cells by the first `width` parts of their keys."""
    groups: dict[tuple[str, ...], dict[tuple[str, ...], UsageSums]] = {}
    for key, sums in cells.items():
        groups.setdefault(key[:width], {})[key] = sums
    return groups


def _keys_of(provider_ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({each for each in provider_ids if each}))
