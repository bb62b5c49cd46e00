"""`audit.ship` names one destination; what is misspelt, or would let plaintext leave the machine, is refused."""

from pathlib import Path

import pytest

from vault_service.audit.destinations import DatagramSyslog, File, Stdout, StreamSyslog, parse_destination
from vault_service.errors import ConfigurationError
from vault_service.log_writer import LogWriter


def test_a_setting_names_its_destination(tmp_path: Path) -> None:
    log = LogWriter(2)
    assert parse_destination("stdout", writer=log) == Stdout(log)
    log.close()
    assert parse_destination("file:/var/log/a:b.jsonl") == File(Path("/var/log/a:b.jsonl"))
    assert parse_destination("syslog:/dev/log") == DatagramSyslog("/dev/log")
    assert parse_destination("syslog:udp:127.0.0.1:514") == DatagramSyslog(("127.0.0.1", 514))
    assert parse_destination("syslog:tcp:localhost:601") == StreamSyslog("localhost", 601)
    assert parse_destination("syslog:tcp:::1:601") == parse_destination("syslog:tcp:[::1]:601")
    secured = parse_destination("syslog:tls:siem.example.org:6514")
    assert isinstance(secured, StreamSyslog)
    assert (secured.host, secured.port) == ("siem.example.org", 6514)
    assert secured.tls is not None
    assert secured.tls.check_hostname


@pytest.mark.parametrize(
    "setting",
    [
        "",
        "stderr",
        "stdout:",
        "file:",
        "file:audit.jsonl",
        "file:/var/log/",
        "syslog",
        "syslog:",
        "syslog:dev/log",
        "syslog:udp:127.0.0.1",
        "syslog:tcp:127.0.0.1:0",
        "syslog:tcp:127.0.0.1:65536",
        "syslog:tcp:127.0.0.1:5 14",
        "syslog:tls::6514",
        "syslog:tls:a host:6514",
        "syslog:tls:.example.org:6514",
        "syslog:relp:127.0.0.1:514",
    ],
)
def test_another_form_is_refused_by_the_settings_name(setting: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^audit\.ship must be stdout"):
        parse_destination(setting)


@pytest.mark.parametrize("setting", ["syslog:udp:10.0.0.5:514", "syslog:tcp:siem.example.org:601"])
def test_no_plaintext_leaves_the_machine(setting: str) -> None:
    with pytest.raises(ConfigurationError, match=r"audit\.ship: .* use syslog:tls"):
        parse_destination(setting)


def test_an_authority_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for setting, file in (
        ("syslog:tls:siem.example.org:6514", tmp_path / "away.pem"),
        ("syslog:tls:siem.example.org:6514", empty),
        ("stdout", empty),
    ):
        with pytest.raises(ConfigurationError, match=r"audit\.ship_ca_file"):
            parse_destination(setting, file)
