// The tabs, and what happens when the page opens.

import { forgetKey, hasKey, request } from "./api.js";
import * as check from "./check.js";
import { byId } from "./dom.js";
import * as monitoring from "./monitoring.js";
import * as recount from "./recount.js";

const TABS = ["check", "monitoring", "recount"];
const TITLES = { check: "Check a bin", monitoring: "Monitoring", recount: "Recount" };

function select(name, focus = false) {
  for (const tabName of TABS) {
    const tab = byId(`tab-${tabName}`);
    tab.setAttribute("aria-selected", String(tabName === name));
    tab.tabIndex = tabName === name ? 0 : -1;
    byId(`panel-${tabName}`).hidden = tabName !== name;
  }
  document.title = `${TITLES[name]} - binwatch`;
  if (focus) byId(`tab-${name}`).focus();
  if (name === "monitoring") monitoring.load();
  if (name === "recount") recount.open(!focus);
}

/** The tab in the address. */
const tabInAddress = () => (TABS.includes(location.hash.slice(1)) ? location.hash.slice(1) : TABS[0]);

function go(name, focus) {
  history.replaceState(null, "", `#${name}`);
  select(name, focus);
}

function onKey(event) {
  const current = TABS.indexOf(tabInAddress());
  const next = { ArrowRight: current + 1, ArrowLeft: current - 1 + TABS.length, Home: 0, End: TABS.length - 1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  go(TABS[next % TABS.length], true);
}

/** Show which model answers: the one of `answer`, or the one that a health check finds. */
async function showHealth(answer = null) {
  const pill = byId("health");
  try {
    const { model_version: version } = answer ?? (await request("/healthz"));
    pill.dataset.kind = "ok";
    pill.textContent = `Model ${version} answers`;
  } catch (error) {
    pill.dataset.kind = "bad";
    pill.textContent = { NoModel: "No model yet", NoKey: "API key needed" }[error.type] || "Not available";
  }
}

for (const name of TABS) byId(`tab-${name}`).addEventListener("click", () => go(name));
document.querySelector("[role=tablist]").addEventListener("keydown", onKey);
addEventListener("hashchange", () => TABS.includes(location.hash.slice(1)) && select(tabInAddress()));
byId("forget").hidden = !hasKey();
byId("forget").addEventListener("click", forgetKey);
check.setUp(showHealth);
monitoring.setUp();
recount.setUp();
select(tabInAddress());
showHealth();
