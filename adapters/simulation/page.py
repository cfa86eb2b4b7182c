"""A report as one HTML page: no network, no scripts; for a phone, for paper, for light and dark."""

from collections.abc import Iterable, Iterator
from html import escape

from adapters.page_style import definitions, document, legend
from adapters.simulation.plot import Bin, calendar, slack_bins, slack_bounds, slacks
from adapters.simulation.report import DeviceRow, Report
from adapters.simulation.words import assumptions, line, results, span, title, told, verdict

MOST_DEVICES = 50
"Rows of the table; JSON has all."
MOST_ENTRIES = 2_000
"Of the whole timeline."

_STYLE = """
.rows{display:grid;grid-template-columns:max-content 1fr;gap:5px 8px;align-items:center}
.rows b{font-weight:400;color:var(--dim);font-size:.85rem;font-variant-numeric:tabular-nums}
svg{display:block;width:100%;height:38px}svg.slack{height:170px}
.ticks{display:flex;color:var(--dim);font-size:.75rem}.ticks span{flex:1;border-left:1px solid var(--line);
padding-left:2px;white-space:nowrap;overflow:hidden}
.chart{position:relative}.chart span{position:absolute;left:4px;color:var(--dim);font-size:.75rem;
line-height:1}
.ends{display:flex;justify-content:space-between;color:var(--dim);font-size:.8rem}
.ground{fill:var(--ground)}.used{fill:var(--used)}.left{fill:var(--left)}.lost{fill:var(--bad)}
.outage{fill:var(--outage);fill-opacity:.45}.hub-outage{fill:var(--hub);fill-opacity:.45}
.failed{fill:var(--work)}.clock{fill:var(--clock)}.late{fill:var(--late)}
.s-Provisioned{fill:var(--calm)}.s-CertExpiring{fill:var(--wait)}.s-Renewing{fill:var(--wait)}
.s-Registering{fill:var(--used)}.s-Reprovisioning{fill:var(--work)}.s-Unprovisioned{fill:var(--bad)}
.dot{stroke:var(--used);stroke-width:6px;stroke-linecap:round;vector-effect:non-scaling-stroke}
.dot.bad{stroke:var(--bad);stroke-width:8px}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;vertical-align:top;padding:4px 12px 4px 0;border-bottom:1px solid var(--line)}
th{color:var(--dim);font-weight:400}td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
td.at{white-space:nowrap;width:1%;color:var(--dim);font-variant-numeric:tabular-nums}
.bins{display:grid;grid-template-columns:max-content 1fr max-content;gap:3px 8px;align-items:center;
font-size:.85rem}
.bins span{height:14px;background:var(--used);border-radius:2px}
.bins .bad{background:var(--bad)}
@media (max-width:560px){td.at{white-space:normal;min-width:6.4em}th,td{padding-right:8px}}
@media print{svg,tr,.rows>*{break-inside:avoid}}
"""

_LEGEND = (
    ("--used", "certificate in use"),
    ("--left", "what was left of it"),
    ("--bad", "no valid certificate"),
    ("--outage", "nobody reaches DPS or hub"),
    ("--hub", "nobody reaches the hub"),
    ("--work", "attempts failed"),
    ("--clock", "clock set"),
    ("--calm", "Provisioned"),
    ("--wait", "CertExpiring, Renewing"),
)


def page(report: Report) -> str:
    """The whole page. The same report gives the same text."""
    lost = bool(report.total.missed_renewals or report.total.never_provisioned)
    return document(f"identityd simulate: {title(report)}", _STYLE, _parts(report, lost))


def _parts(report: Report, lost: bool) -> Iterator[str]:
    devices = report.assumed.devices
    yield f"<h1>What the policy comes to</h1><p class='dim'>{escape(title(report))}</p>\n"
    style = "bad" if lost else "good"
    yield f"<p class='verdict {style}'>{escape(verdict(report.total, devices))}</p>\n"
    yield f"<dl class='cards'>{definitions(results(report))}</dl>\n"
    worst = "" if devices == 1 else ", which fared worst"
    yield f"<h2>Device {report.device.device}{worst}</h2>\n{_calendar(report)}\n"
    yield f"<h2>What was left of each certificate when it was replaced</h2>\n{_slacks(report)}\n"
    if devices > 1:
        yield f"<h2>All devices by their worst slack</h2>\n{_bins(slack_bins(report))}\n{_devices(report)}\n"
    yield f"<h2>What happened{'' if devices == 1 else f' to device {report.device.device}'}</h2>\n"
    yield _table(told(report.device.timeline))
    yield f"<details><summary>Each renewal</summary>{_whole(report)}</details>\n"
    yield f"<h2>What was assumed</h2><dl class='cards'>{definitions(assumptions(report))}</dl>\n"
    yield (
        "<p class='dim'>Machine, runtime and timers are the real ones; network, cloud, disk and clock are "
        "not. Each device has a cloud of its own, so that devices do not slow each other down.</p>\n"
    )


def _calendar(report: Report) -> str:
    drawn = calendar(report)
    ticks = "".join(f"<span>{escape(one)}</span>" for one in drawn.ticks)
    rows = "".join(f"<b>{escape(row.label)}</b>{row.svg}" for row in drawn.rows)
    note = "" if drawn.bars else "<p class='dim'>More certificates than can be drawn: only states are.</p>"
    return (
        f"<div class='rows'><b></b><div class='ticks'>{ticks}</div>{rows}</div>"
        f"<ul class='legend'>{_legend(report)}</ul>{note}"
    )


def _legend(report: Report) -> str:
    kinds = {entry.kind for entry in report.device.timeline}
    absent = {
        "--bad": "without-identity",
        "--outage": "outage",
        "--hub": "hub-outage",
        "--work": "failed",
        "--clock": "clock-set",
    }
    return legend(row for row in _LEGEND if row[0] not in absent or absent[row[0]] in kinds)


def _slacks(report: Report) -> str:
    top, bottom = slack_bounds(report)
    start, end = report.assumed.start[:10], report.assumed.end[:10]
    low = f"{span(-bottom)} too late" if bottom < 0 else ""
    return (
        f"<div class='chart'>{slacks(report)}<span style='top:2px'>{escape(span(top))} left</span>"
        f"<span style='bottom:{-bottom * 100 / (top - bottom) + 1:.1f}%'>expired</span>"
        f"<span style='bottom:1px'>{escape(low)}</span></div>"
        f"<div class='ends'><span>{start}</span><span>{end}</span></div>"
    )


def _bins(bins: Iterable[Bin]) -> str:
    bins = list(bins)
    most = max((one.count for one in bins), default=1) or 1
    rows = (
        f"<div>{escape(one.label)}</div>"
        f'<span class="{"bad" if one.bad else ""}" style="width:{one.count * 100 / most:.1f}%"></span>'
        f"<div>{one.count}</div>"
        for one in bins
    )
    return f"<div class='bins'>{''.join(rows)}</div>"


def _devices(report: Report) -> str:
    rows = sorted(report.devices, key=_badness)
    shown = "".join(map(_device, rows[:MOST_DEVICES]))
    more = len(rows) - MOST_DEVICES
    note = f"<p class='dim'>and {more} that fared better; --json has all of them</p>" if more > 0 else ""
    heads = ("unavailable", "worst slack", "missed", "renewals", "failed", "billed")
    head = "".join(f"<th class='n'>{one}</th>" for one in heads)
    return (
        "<details open><summary>Each device, worst first</summary><div class='scroll'><table>"
        f"<tr><th class='n'>device</th>{head}</tr>{shown}</table></div>{note}</details>"
    )


def _badness(row: DeviceRow) -> tuple[float, float, int]:
    numbers = row.numbers
    slack_s = numbers.worst_slack_s
    return -numbers.unavailable_s, float("inf") if slack_s is None else slack_s, row.device


def _device(row: DeviceRow) -> str:
    one = row.numbers
    slack = "none" if one.worst_slack_s is None else span(one.worst_slack_s)
    cells = (
        str(row.device),
        span(one.unavailable_s),
        slack,
        f"{one.missed_renewals:,}",
        f"{one.renewals:,}",
        f"{one.failed_attempts:,}",
        f"{one.registrations_billed:,}",
    )
    return "<tr>" + "".join(f"<td class='n'>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _whole(report: Report) -> str:
    entries = report.device.timeline
    more = len(entries) - MOST_ENTRIES
    note = f"<p class='dim'>and {more} more; --json has all of them</p>" if more > 0 else ""
    return _table(map(line, entries[:MOST_ENTRIES])) + note


def _table(rows: Iterable[tuple[str, str, str]]) -> str:
    body = "".join(
        f"<tr><td class='at'>{escape(at)}</td><td{_class(kind)}>{escape(what)}</td></tr>"
        for at, what, kind in rows
    )
    return f"<table>{body}</table>"


def _class(kind: str) -> str:
    return " class='bad'" if kind == "without-identity" else ""
