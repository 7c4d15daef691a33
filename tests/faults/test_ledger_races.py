"""Racing decisions about one model, on a real S3 server, which looks at the conditions of writes or ignores them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from gen_dist.registry import aliases
from gen_dist.registry.aliases import Act, State
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.ledger import Ledger
from gen_dist.store.s3 import S3Store
from tests.support.fault_proxy import FaultProxy

ACT = Act(by="ann@desk", at="2026-01-01T00:00:00.000+00:00")
RACERS = [str(number) for number in range(1, 7)]


@pytest.mark.parametrize("conditional", [True, False], ids=["conditions hold", "conditions are ignored"])
def test_of_six_promotions_one_wins_and_no_entry_is_lost(
    bucket: S3Store, proxy: FaultProxy, *, conditional: bool
) -> None:
    proxy.conditional = conditional
    assert bucket.enforces_conditions() == conditional
    racers = {version: Ledger(bucket, "small", settle_s=1.0) for version in RACERS}

    def publish(version: str) -> None:
        racers[version].update(lambda state: aliases.published(state, version, act=ACT))

    def promote(version: str) -> str:
        try:
            return (
                racers[version]
                .update(lambda state: aliases.promoted(state, version, alias="champion", seen="", act=ACT))
                .champion
            )
        except RegistryError as error:
            return str(error)

    with ThreadPoolExecutor(len(RACERS)) as pool:
        list(pool.map(publish, RACERS))
        ends = dict(zip(RACERS, pool.map(promote, RACERS), strict=True))
    state: State = Ledger(bucket, "small").read()
    assert [version for version, end in ends.items() if end == version] == [state.champion]
    lost = f"small: version {state.champion} became champion meanwhile"
    assert all(end.startswith(lost) for version, end in ends.items() if version != state.champion)
    assert sorted(entry["version"] for entry in state.audit if entry["action"] == "publish") == RACERS
    assert aliases.fault_of(state.audit) == ""
