"""Ready means that some domain can be served; reasons are said, and one domain's stay its own."""

from prometheus_client import REGISTRY

from vault_service.readiness import Readiness, Report, show


def test_one_domain_that_works_is_enough() -> None:
    report = Report({"store": ""}, {"highered": "keys are not in memory", "k12": ""})
    assert report.ready
    assert report.reasons == {"domain highered": "keys are not in memory"}
    assert report.text == "ready\nstore: ok\ndomain highered: keys are not in memory\ndomain k12: ok\n"


def test_no_domain_that_works_or_none_at_all_is_not() -> None:
    assert not Report({"store": ""}, {"k12": "keys are not in memory"}).ready
    assert not Report({"store": ""}, {}).ready


def test_every_part_is_needed_and_asked_each_time() -> None:
    trouble = {"store": "", "log": ""}
    readiness = Readiness(lambda: {"k12": ""})
    for part in trouble:
        readiness.add(part, lambda part=part: trouble[part])  # type: ignore[misc]  # a default binds it
    assert readiness.report().ready
    trouble["log"] = "the log's reader does not read"
    assert readiness.report().reasons == {"log": "the log's reader does not read"}
    assert not readiness.report().ready
    assert readiness.report().text.startswith("not ready\n")
    trouble["log"] = ""
    assert readiness.report().ready


def test_a_domain_has_a_gauge_for_as_long_as_it_is_in_the_policy() -> None:
    def gauge(domain: str) -> float | None:
        return REGISTRY.get_sample_value("ssn_vault_domain_ready", {"domain": domain})

    show(Report({}, {"k12": "", "highered": "keys are not in memory"}))
    assert (gauge("k12"), gauge("highered"), REGISTRY.get_sample_value("ssn_vault_ready")) == (1, 0, 1)
    show(Report({}, {"highered": ""}))
    assert (gauge("k12"), gauge("highered")) == (None, 1)
    show(Report({}, {}))
    assert REGISTRY.get_sample_value("ssn_vault_ready") == 0
