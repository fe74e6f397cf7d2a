"""The audit log from a shell."""

from tests.support.desk import Desk


def test_rows_are_listed_newest_first_and_filtered(admin_desk: Desk) -> None:
    """By what was done, by whom, to what and when."""
    limit = admin_desk.ask("limits", "create", "ann", "--tokens-per-day", 5)

    def operations(*filters: str) -> list[str]:
        return [each["operation"] for each in admin_desk.ask("audit", "list", *filters)["data"]]

    assert operations()[0] == "LIMIT_CREATED"
    assert operations("--operation", "LIMIT_CREATED", "--user", "admin") == ["LIMIT_CREATED"]
    assert operations("--resource-type", "limit", "--resource-id", limit["id"]) == ["LIMIT_CREATED"]
    assert operations("--operation", "LIMIT_CREATED", "--outcome", "failed") == []
    assert operations("--operation", "LIMIT_CREATED", "--start-date", "2020-01-01", "--end-date", "2020-01-02") == []
    assert operations("--sort", "timestamp")[-1] == "LIMIT_CREATED"
    assert "LIMIT_CREATED │ success │" in admin_desk.run("audit", "list").words
    assert admin_desk.run("audit", "list", "--outcome", "odd").code == 4


def test_one_row_is_shown_with_what_it_changed(admin_desk: Desk) -> None:
    """As JSON inside of the table, and whole with `--json`."""
    limit = admin_desk.ask("limits", "create", "ann", "--tokens-per-day", 5)
    (row,) = admin_desk.ask("audit", "list", "--operation", "LIMIT_CREATED")["data"]

    shown = admin_desk.run("audit", "show", row["id"])

    assert (shown.code, limit["id"] in shown.out, '"max_tokens_per_day":5' in shown.out) == (0, True, True), shown.out
    assert admin_desk.ask("audit", "show", row["id"]) == row
    assert admin_desk.run("audit", "show", "aud_nothing").code == 4


def test_the_log_is_for_admins(desk: Desk) -> None:
    """Exit 4 for anybody else, exit 5 for nobody."""
    without = desk.run("audit", "list", "--url", desk.url)
    desk.log_in("ann")

    assert (without.code, desk.run("audit", "list").code) == (5, 4)
