"""Grafana's dashboard JSON, as far as make.py needs it: one function for each kind of panel.

The fields are those of Grafana 12's dashboard schema, version 42; earlier Grafanas from 10 on read them too.
https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

SCHEMA_VERSION = 42
# As in provisioning/datasources/visord.yml.
DATASOURCE = {"type": "prometheus", "uid": "visord-prometheus"}
COLUMNS = 24

GREEN, YELLOW, RED = "green", "yellow", "red"


def query(expr, legend="", instant=False, form="time_series"):
    """One query; `legend` has `{{label}}` where a series' label goes."""
    return {"expr": expr, "legendFormat": legend, "instant": instant, "range": not instant, "format": form}


def steps(*pairs):
    """Thresholds: colour from a value on; the first has none."""
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for color, value in pairs]}


def panel(kind, title, queries, width, height, unit, options, custom=None, thresholds=None, about="", **defaults):
    field = {"unit": unit, "color": {"mode": "thresholds" if kind == "stat" else "palette-classic"},
             "thresholds": thresholds or steps((GREEN, None)), "mappings": [], **defaults}
    if custom:
        field["custom"] = custom
    targets = [{"refId": chr(ord("A") + i), "datasource": DATASOURCE, **q} for i, q in enumerate(queries)]
    return {
        "type": kind, "title": title, "description": about, "datasource": DATASOURCE,
        "gridPos": {"w": width, "h": height}, "fieldConfig": {"defaults": field, "overrides": []},
        "options": options, "targets": targets,
    }


def graph(title, *queries, unit, width=12, height=8, stack=False, thresholds=None, about="", **defaults):
    """Lines over time. `thresholds` are drawn as lines."""
    custom = {
        "drawStyle": "line", "lineWidth": 1, "fillOpacity": 30 if stack else 8, "showPoints": "never", "spanNulls": False,
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if thresholds else "off"},
    }
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel("timeseries", title, queries, width, height, unit, options, custom, thresholds, about, **defaults)


def stat(title, *queries, unit, width=6, height=5, thresholds=None, about="", words=None, **defaults):
    """The latest value in large figures, or the word that `words` has for it."""
    if words:
        defaults["mappings"] = [{"type": "value", "options": {
            value: {"text": text, "color": color, "index": i} for i, (value, (text, color)) in enumerate(words.items())
        }}]
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "background",
        "graphMode": "none" if words else "area", "textMode": "value_and_name" if words else "auto", "justifyMode": "auto",
        "orientation": "auto", "wideLayout": True,
    }
    return panel("stat", title, queries, width, height, unit, options, None, thresholds, about, **defaults)


def heatmap(title, expr, unit, width=12, height=8, about=""):
    """A histogram over time; `expr` sums `_bucket` by `le`."""
    options = {
        "calculate": False, "cellGap": 1, "rowsFrame": {"layout": "auto"}, "filterValues": {"le": 1e-9},
        "color": {"mode": "scheme", "scheme": "Blues", "scale": "exponential", "exponent": 0.5, "steps": 64, "reverse": False,
                  "fill": "dark-blue"},
        "yAxis": {"unit": unit, "axisPlacement": "left", "reverse": False}, "cellValues": {"unit": "short"},
        "legend": {"show": True}, "showValue": "never", "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": True},
    }
    custom = {"scaleDistribution": {"type": "linear"}, "hideFrom": {"legend": False, "tooltip": False, "viz": False}}
    return panel("heatmap", title, [query(expr, "{{le}}", form="heatmap")], width, height, unit, options, custom, None, about)


def table(title, expr, columns, unit="short", value=None, width=24, height=7, about=""):
    """One row for each series now: the labels in `columns`, and its value under the name `value` if that is given."""
    hidden = {name: True for name in ("Time", "__name__", "job", *(() if value else ("Value",)))}
    organize = {
        "excludeByName": hidden, "indexByName": {name: i for i, name in enumerate([*columns, "Value"])},
        "renameByName": {"Value": value} if value else {},
    }
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": False}
    options = {"showHeader": True, "cellHeight": "sm"}
    made = panel("table", title, [query(expr, instant=True, form="table")], width, height, unit, options, custom, None, about)
    made["transformations"] = [{"id": "organize", "options": organize}]
    return made


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": COLUMNS, "h": 1}}


def variable(name, label, source, multi=True):
    """A drop-down filled from the labels that `source` finds; with `multi`, any number of them or all."""
    made = {
        "type": "query", "name": name, "label": label, "datasource": DATASOURCE, "definition": source,
        "query": {"query": source, "refId": "visord"}, "refresh": 2, "sort": 3, "hide": 0, "multi": multi, "includeAll": multi,
        "regex": "", "options": [], "current": {},
    }
    if multi:
        made |= {"allValue": ".*", "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}
    return made


def place(panels):
    """Lays panels out from left to right, a new line where one does not fit; numbers them."""
    x = y = line = 0
    for number, made in enumerate(panels, 1):
        grid = made["gridPos"]
        if x + grid["w"] > COLUMNS:
            x, y, line = 0, y + line, 0
        grid |= {"x": x, "y": y}
        made["id"] = number
        x, line = x + grid["w"], max(line, grid["h"])
    return panels


def dashboard(uid, title, about, variables, panels):
    return {
        "uid": uid, "title": title, "description": about, "tags": ["visord"], "schemaVersion": SCHEMA_VERSION, "version": 1,
        "editable": True, "graphTooltip": 1, "timezone": "browser", "refresh": "30s", "liveNow": False, "preload": False,
        "fiscalYearStartMonth": 0, "weekStart": "", "time": {"from": "now-1h", "to": "now"}, "timepicker": {},
        "annotations": {"list": [
            {"builtIn": 1, "name": "Annotations & Alerts", "type": "dashboard", "enable": True, "hide": True,
             "datasource": {"type": "grafana", "uid": "-- Grafana --"}, "iconColor": "rgba(0, 211, 255, 1)"},
            {"name": "starts", "enable": True, "hide": False, "datasource": DATASOURCE, "iconColor": "purple",
             "expr": 'changes(process_start_time_seconds{job="visord",instance=~"$instance"}[$__rate_interval]) > 0',
             "titleFormat": "visord started", "textFormat": "{{instance}}", "step": "60s"},
        ]},
        "links": [{"type": "dashboards", "title": "visord", "tags": ["visord"], "asDropdown": False, "includeVars": True,
                   "keepTime": True, "targetBlank": False, "icon": "external link", "tooltip": "", "url": ""}],
        "templating": {"list": variables}, "panels": place(panels),
    }
