"""The table in tests/rules.py is up to date: each rule's code and each of its tests exist."""

from dataclasses import replace

import pytest

from malaria.errors import UserError
from tests import rules


def test_every_rule_stands_where_the_table_says():
    rules.check_places(rules.RULES)
    assert len({(rule.file, rule.code, rule.change) for rule in rules.RULES}) == len(rules.RULES)
    assert all(rule.code != rule.change for rule in rules.RULES)


def test_every_guard_is_a_test():
    for guard in rules.guards_of(rules.RULES):
        file, _, name = guard.partition("::")
        assert f"def {name or 'test_'}" in (rules.ROOT / file).read_text(), guard


@pytest.mark.parametrize(("code", "times"), [("no such code", "0"), ("PARASITIZED", "[2-9]")])
def test_a_rule_whose_code_is_elsewhere_stops_the_command(code, times):
    moved = replace(rules.RULES[0], code=code)
    with pytest.raises(
        UserError, match=rf"labels\.py has '{code}' {times} times, but the rule .* needs it once"
    ):
        rules.check_places([moved])
