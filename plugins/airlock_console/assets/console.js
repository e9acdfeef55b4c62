// The console's script. Pages work without it, but for the theme, links out of Airflow's frame, dialogs and redrives.
"use strict";

const framed = window.parent !== window;
const airflow = document.body.dataset.airflow;

// Airflow sets its theme as a class of its own page.
function followTheme() {
  const classes = window.parent.document.documentElement.classList;
  for (const theme of ["dark", "light"]) document.documentElement.classList.toggle(theme, classes.contains(theme));
}
if (framed) {
  followTheme();
  new MutationObserver(followTheme).observe(window.parent.document.documentElement, { attributeFilter: ["class"] });
}

// The frame may not navigate its parent, but it may tell the parent's router where to go.
function leave(address) {
  if (!framed) return window.location.assign(address);
  window.parent.history.pushState(null, "", address);
  window.parent.dispatchEvent(new PopStateEvent("popstate"));
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-leave], [data-dialog], [data-close], [data-print], [data-copy]");
  if (!target) return;
  if (target.dataset.leave !== undefined) {
    event.preventDefault();
    leave(target.getAttribute("href"));
  } else if (target.dataset.dialog) document.querySelector(target.dataset.dialog).showModal();
  else if (target.dataset.close !== undefined) target.closest("dialog").close();
  else if (target.dataset.print !== undefined) window.print();
  else if (target.dataset.copy) navigator.clipboard.writeText(document.querySelector(target.dataset.copy).textContent);
});

// What starts a run goes through Airflow's own API, so that rights, audit log and user are Airflow's.
async function trigger(form) {
  const conf = { ...JSON.parse(form.dataset.conf), ...Object.fromEntries(new FormData(form)) };
  const answer = await fetch(`${airflow}/api/v2/dags/${encodeURIComponent(form.dataset.trigger)}/dagRuns`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ logical_date: null, conf }),
  });
  if (!answer.ok) return `Airflow refuses it (${answer.status}).`;
  const run = await answer.json();
  leave(`${airflow}/dags/${encodeURIComponent(run.dag_id)}/runs/${encodeURIComponent(run.dag_run_id)}`);
  return "Started.";
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.dataset.trigger) return;
  event.preventDefault();
  const result = form.querySelector("[data-result]");
  result.textContent = "Starting ...";
  result.textContent = await trigger(form).catch(() => "Airflow does not answer.");
});
