"""The accounting as one printable page, for the person a token stands for or their parent.

Lines come in, HTML goes out in pieces; nothing outside the page is needed to show it, and nothing on it runs. The
justification stays out: it was written for a whole call and may speak of other students (34 CFR 99.12(a)).
"""

from collections.abc import Iterable, Iterator
from html import escape
from string import Template
from typing import Final

from vault_service.governance.accounting import Line

_HEAD: Final = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Record of disclosures: $subject</title>
<style>
body { font: 11pt/1.4 Georgia, serif; margin: 2em auto; max-width: 60em; padding: 0 1em; color: #111; }
h1 { font-size: 1.5em; }
h1 code { font-size: .8em; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-size: .85em; }
th, td { border: 1px solid #888; padding: .3em .5em; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; unicode-bidi: isolate; }
thead { display: table-header-group; }
@page { margin: 1.5cm; }
@media print { body { margin: 0; max-width: none; font-size: 9pt; } tr { break-inside: avoid; } }
</style>
</head>
<body>
<h1>Record of disclosures<br><code>$subject</code></h1>
<p>Period: $period. Made on $made.</p>
<p>The law (the Family Educational Rights and Privacy Act, FERPA, at 34 CFR 99.32) asks us to write down each time
somebody asks for, or is given, information from a student's education records: who asked, and what legitimate interest
they had. We keep that record as long as we keep the information itself. A parent, or a student who is 18 or attends a
college, has the right to see it. This is that record for the Social Security number that we keep under the name above.
The number itself is not shown here.</p>
<table>
<thead><tr>$headings</tr></thead>
<tbody>
""")
_NOTHING: Final = (
    '<tr><td colspan="$columns">Nobody asked for, or was given, this information in this period.</td></tr>\n'
)
_FOOT: Final = """\
</tbody>
</table>
<p>Every disclosure can be proven. The record is sealed as it grows, so that none can be changed, removed or added later
without being noticed. Whoever keeps the record can prove one, without showing anybody else's, with
<code>ssn-vault audit prove</code> and the text in the last column.</p>
</body>
</html>
"""


def page(lines: Iterable[Line], *, subject: str, period: str, made: str, with_token: bool) -> Iterator[str]:
    """The page in pieces. `subject` is a token or a domain; `with_token` gives each line's token a column."""
    headings = ["When (UTC)", "What was disclosed", "Who asked", "Purpose or agreement", "Legitimate interest"]
    headings += ["Legal authority", "Entry in the record"]
    if with_token:
        headings.insert(1, "Token")
    yield _HEAD.substitute(
        subject=escape(subject), period=escape(period), made=escape(made), headings=_cells(headings, "th")
    )
    empty = True
    for line in lines:
        empty = False
        who = f"{line.client}, {line.person}" if line.person else line.client
        cells = [line.at, line.how, who, line.purpose, line.legitimate_interest, line.authority, line.event]
        if with_token:
            cells.insert(1, line.token)
        yield f"<tr>{_cells(cells, 'td')}</tr>\n"
    if empty:
        yield Template(_NOTHING).substitute(columns=len(headings))
    yield _FOOT


def _cells(texts: Iterable[str], tag: str) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)
