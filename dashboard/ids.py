"""Ids of everything a callback, a script or a test addresses: page first, then thing.

Selectors for a walk through the pages (all are element ids unless written as attributes):

- shell: ``#connection`` (``data-state`` is ``live``, ``waiting`` or ``lost``), ``#banner``,
  ``#toasts .toast``, ``#theme-toggle``, ``#nav-alerts-badge``
- run list: ``#runs-search``, ``[data-testid="run-row"]`` (``data-run``: its id,
  ``data-status``), ``[data-testid="run-link"]``, ``[data-testid="run-select"]`` (a checkbox),
  ``#runs-compare``, ``[data-testid="suggested-comparison"]``, ``#runs-empty``, ``#runs-more``
- run page: ``#run-variance``, ``#run-correlation``, ``#run-gradient``, ``#run-scalars``,
  ``#run-heatmap`` (charts), ``#run-heatmap-canvas``, ``#run-status``,
  ``#run-last-step``, ``#run-alerts``, ``#run-describe``, ``[data-heat]``, ``[data-against]``,
  ``[data-curve]`` (curves on show), ``#run-departures``, ``[data-stack]``,
  ``[data-why]`` (why a prediction is absent), ``[data-show]`` (tabs), ``#run-series-site`` and
  ``#run-series-quantity`` (the choice of a series), ``#run-series``
- player, on the run and compare pages: ``#player`` (``data-step`` is the step on show,
  ``data-following`` is ``true`` or ``false``), ``#player-play``, ``#player-slider``,
  ``#player-follow``, ``#player-step``
- compare page: ``#compare-variance``, ``#compare-correlation``, ``#compare-gradient``,
  ``#compare-scalars``, ``#compare-heatmap-1`` (the second run against the first) and so on
- alerts: ``#alerts-list``, ``[data-testid="incident"]`` (``data-incident`` is its id,
  ``data-incident-status`` its status), ``[data-testid="incident-evidence"]``,
  ``[data-testid="alert-snippet"]``, ``[data-incident-action]`` (``acknowledge``, ``resolve``,
  ``reopen``, ``note`` or ``silence``), ``[data-alerts-status]`` (the filter), ``#alerts-more``,
  ``#alerts-newer``
- settings: ``#settings`` with ``#channels``, ``#routes``, ``#deliveries``, ``#silences``,
  ``#rules`` and ``#browser``, all built by ``assets/js/settings.js``

``document.body.dataset.charts`` is ``drawn`` once every chart of the page shows its history.
"""

URL = "url"
PAGE = "page"
PAGE_DATA = "page-data"
PAGE_STARTED = "page-started"
LIVE_EVENT = "live-event"

RUNS_SEARCH = "runs-search"
RUNS_STATUS = "runs-status"
RUNS_PROJECT = "runs-project"
RUNS_LIST = "runs-list"
RUNS_SELECTED = "runs-selected"
RUNS_COMPARE = "runs-compare"
RUNS_EMPTY = "runs-empty"
RUNS_SHOWN = "runs-shown"
RUNS_MORE = "runs-more"
RUN_SELECT = "run-select"

RUN_STATUS = "run-status"
RUN_DESCRIBE = "run-describe"
RUN_HEADER = "run-header"
RUN_LAST_STEP = "run-last-step"
RUN_LOSS = "run-last-loss"
RUN_AGE = "run-age"
RUN_VARIANCE = "run-variance"
RUN_CORRELATION = "run-correlation"
RUN_GRADIENT = "run-gradient"
RUN_SCALARS = "run-scalars"
RUN_HEATMAP = "run-heatmap"
RUN_INNOVATIONS = "run-innovations"
RUN_DEPARTURES = "run-departures"
RUN_ALERTS = "run-alerts"
RUN_INTERNALS = "run-internals"
RUN_CAUSES = "run-causes"
RUN_SERIES = "run-series"
RUN_SERIES_SITE = "run-series-site"
RUN_SERIES_QUANTITY = "run-series-quantity"
RUN_INTERNALS_STEP = "run-internals-step"

COMPARE_VARIANCE = "compare-variance"
COMPARE_CORRELATION = "compare-correlation"
COMPARE_GRADIENT = "compare-gradient"
COMPARE_SCALARS = "compare-scalars"
COMPARE_HEATMAP = "compare-heatmap"

ALERTS_LIST = "alerts-list"
ALERTS_STATUS = "alerts-status"
ALERTS_SHOWN = "alerts-shown"
ALERTS_MORE = "alerts-more"
ALERTS_NEWER = "alerts-newer"

SETTINGS = "settings"
