// Tabs, and what happens when the page opens.

import { ask, forgetKey, hasKey } from "./api.js";
import * as check from "./check.js";
import { byId } from "./dom.js";
import * as monitoring from "./monitoring.js";

const TABS = ["check", "monitoring"];
const TITLES = { check: "Check a bin", monitoring: "Monitoring" };

function select(name, focus = false) {
  for (const each of TABS) {
    const tab = byId(`tab-${each}`);
    tab.setAttribute("aria-selected", String(each === name));
    tab.tabIndex = each === name ? 0 : -1;
    byId(`panel-${each}`).hidden = each !== name;
  }
  document.title = `${TITLES[name]} - binwatch`;
  if (focus) byId(`tab-${name}`).focus();
  if (name === "monitoring") monitoring.load();
}

/** The tab that the address names. */
const named = () => (TABS.includes(location.hash.slice(1)) ? location.hash.slice(1) : TABS[0]);

function go(name, focus) {
  history.replaceState(null, "", `#${name}`);
  select(name, focus);
}

function onKey(event) {
  const at = TABS.indexOf(named());
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1 + TABS.length, Home: 0, End: TABS.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  go(TABS[to % TABS.length], true);
}

/** Shows which model answers: the one that just did, else the one that answers when asked. */
async function health(answer = null) {
  const pill = byId("health");
  try {
    const found = answer ?? (await ask("/healthz"));
    pill.dataset.kind = "ok";
    pill.textContent = `Model ${found.model_version} answers`;
  } catch (error) {
    pill.dataset.kind = "bad";
    pill.textContent = { NoModel: "No model yet", NoKey: "API key needed" }[error.type] || "No counts at the moment";
  }
}

for (const name of TABS) byId(`tab-${name}`).addEventListener("click", () => go(name));
document.querySelector("[role=tablist]").addEventListener("keydown", onKey);
addEventListener("hashchange", () => TABS.includes(location.hash.slice(1)) && select(named()));
byId("forget").hidden = !hasKey();
byId("forget").addEventListener("click", forgetKey);
check.setUp(health);
monitoring.setUp();
select(named());
health();
