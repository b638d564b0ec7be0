// Long work as a job of the service: submitted, listened to, fetched. A job has no time limit and tells how far it is.

const PAUSE_MS = 1000;

const running = ({ state }) => state === "queued" || state === "running";

export async function offersJobs(api, signal) {
  const { paths } = await api.description(signal);
  return "/v1/jobs" in paths;
}

// Encode as api.encode does. `told` is called with every status: { state, stage, progress, eta_s, queue_position }.
// Who stops waiting (`signal`) cancels the job, which would otherwise go on alone.
export async function encodeAsJob(api, body, query, signal, told) {
  const began = performance.now();
  let status = await api.submit(body, { op: "encode", ...query }, signal);
  const cancel = () => api.cancel(status.id).catch(() => {}); // it may be done by now
  signal.addEventListener("abort", cancel, { once: true });
  try {
    told(status);
    while (running(status)) {
      for await (const next of api.events(status.id, signal)) told((status = next));
      if (!running(status)) break;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS)); // the connection broke: look again
      signal.throwIfAborted();
      told((status = await api.job(status.id, signal)));
    }
    const result = await api.result(status.id, signal);
    return { ...result, ms: Date.parse(status.finished) - Date.parse(status.started), roundTrip: performance.now() - began };
  } finally {
    signal.removeEventListener("abort", cancel);
  }
}

export function jobText({ state, stage, progress, eta_s: left, queue_position: position }) {
  if (state === "queued") return `The job waits${position ? ` at place ${position}` : ""} …`;
  const parts = [stage || "the job runs", `${Math.round(100 * progress)} %`, left ? `about ${Math.ceil(left)} s left` : ""];
  return `${parts.filter(Boolean).join(", ")} …`;
}
