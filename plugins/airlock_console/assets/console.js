// The console's script. Pages work without it, but for the theme, links out of Airflow's frame, dialogs and starts.
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

function openDialog(button) {
  const dialog = document.querySelector(button.dataset.dialog);
  if (button.dataset.month) {
    const [year, month] = button.dataset.month.split("-").map(Number);
    const fields = dialog.querySelector("form").elements;
    fields.dag_id.value = button.dataset.dag;
    fields.from_date.value = `${button.dataset.month}-01`;
    fields.to_date.value = new Date(Date.UTC(year, month, 0)).toISOString().slice(0, 10);
  }
  dialog.showModal();
}

// Browsers give the clipboard to pages over TLS only; elsewhere the text is selected, to be copied by hand.
function copy(element) {
  window.getSelection().selectAllChildren(element);
  if (navigator.clipboard) navigator.clipboard.writeText(element.textContent);
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-leave], [data-dialog], [data-close], [data-print], [data-copy]");
  if (!target) return;
  if (target.dataset.leave !== undefined) {
    event.preventDefault();
    leave(target.getAttribute("href"));
  } else if (target.dataset.dialog) openDialog(target);
  else if (target.dataset.close !== undefined) target.closest("dialog").close();
  else if (target.dataset.print !== undefined) window.print();
  else if (target.dataset.copy) copy(document.querySelector(target.dataset.copy));
});

// What starts, clears or backfills goes through Airflow's own API: rights, audit log and user are Airflow's.
async function call(path, body) {
  const answer = await fetch(`${airflow}/api/v2/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw Object.assign(new Error(`Airflow refuses it (${answer.status}).`), { status: answer.status });
  return answer.json();
}

async function trigger(form, fields) {
  const conf = { ...JSON.parse(form.dataset.conf), ...fields };
  const run = await call(`dags/${encodeURIComponent(form.dataset.trigger)}/dagRuns`, { logical_date: null, conf });
  leave(`${airflow}/dags/${encodeURIComponent(run.dag_id)}/runs/${encodeURIComponent(run.dag_run_id)}`);
}

// Release what is approved, and stay on the page. Reviewers need not have the right to start runs.
async function apply(form) {
  try {
    await call(`dags/${encodeURIComponent(form.dataset.apply)}/dagRuns`, { logical_date: null, conf: {} });
  } catch (error) {
    throw error.status === 403 ? new Error("Airflow lets you start no runs. The next one by the clock releases it.") : error;
  }
}

async function clear(form) {
  const dag = encodeURIComponent(form.dataset.clear);
  const chosen = { dag_run_id: form.dataset.run, dry_run: false, only_failed: true, include_downstream: true };
  await call(`dags/${dag}/clearTaskInstances`, { ...chosen, reset_dag_runs: true });
  leave(`${airflow}/dags/${dag}/runs/${encodeURIComponent(form.dataset.run)}`);
}

// The last day counts whole: Airflow makes the runs whose time is not after to_date.
async function backfill(form, fields) {
  const days = { from_date: `${fields.from_date}T00:00:00Z`, to_date: `${fields.to_date}T23:59:59Z` };
  const how = { max_active_runs: Number(fields.max_active_runs), reprocess_behavior: "none", run_backwards: true };
  await call("backfills", { dag_id: fields.dag_id, ...days, ...how });
  leave(`${airflow}/dags/${encodeURIComponent(fields.dag_id)}/backfills`);
}

// A plan lists and reads what the backfill of these days would take, and imports nothing.
async function plan(fields) {
  const end = new Date(`${fields.to_date}T00:00:00Z`);
  end.setUTCDate(end.getUTCDate() + 1);
  const days = { window_start: `${fields.from_date}T00:00:00Z`, window_end: end.toISOString() };
  const conf = { plan_only: true, ...days };
  const run = await call(`dags/${encodeURIComponent(fields.dag_id)}/dagRuns`, { logical_date: null, conf });
  leave(`${airflow}/dags/${encodeURIComponent(run.dag_id)}/runs/${encodeURIComponent(run.dag_run_id)}`);
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  const { trigger: triggers, apply: applies, clear: clears, backfill: fills } = form.dataset;
  const act = triggers ? trigger : applies ? apply : clears ? clear : fills !== undefined ? backfill : null;
  if (!act) return;
  event.preventDefault();
  const result = form.querySelector("[data-result]");
  result.textContent = "Starting ...";
  try {
    const fields = Object.fromEntries(new FormData(form));
    await (event.submitter?.dataset.plan === undefined ? act(form, fields) : plan(fields));
    result.textContent = "Started.";
  } catch (error) {
    result.textContent = error.message.startsWith("Airflow") ? error.message : "Airflow does not answer.";
  }
});

// An approval that was just given is applied at once. A link to such an address starts nothing: this tab remembers that
// a person has answered.
document.querySelector("form[data-answer]")?.addEventListener("submit", () => sessionStorage.setItem("answered", "1"));
if (new URLSearchParams(window.location.search).has("answered") && sessionStorage.getItem("answered")) {
  sessionStorage.removeItem("answered");
  document.querySelector("form[data-apply]")?.requestSubmit();
}
