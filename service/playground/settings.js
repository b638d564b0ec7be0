// The form for a codec's settings, made from its JSON schema, and read back as the service's query parameters.

import { byId, element } from "./dom.js";

export const AUTO = "auto";
// What can be aimed for beside the quality. One at a time, so that the form cannot contradict itself.
const TARGETS = {
  target_psnr: ["at least this PSNR", "dB", { type: "number", minimum: 1, maximum: 100, default: 38 }, 0.1],
  target_bpp: ["at most these bits per pixel or sample", "bpp", { type: "number", minimum: 0.001, maximum: 1000, default: 0.5 }, 0.001],
  target_kbps: ["at most these kbit/s", "kbit/s", { type: "number", minimum: 0.1, maximum: 1000000, default: 100 }, 0.1],
  target_bytes: ["at most these bytes", "bytes", { type: "integer", minimum: 1, default: 50000 }, 1],
};
const OF_AIM = ["quality", "lossless"]; // settings that the aim stands for
const IN_SIGHT = ["effort", "seconds", "steps"]; // settings that are not hidden under "more"

const propertiesOf = (codec) => codec?.settings.properties ?? {};
const title = (name) => name.replaceAll("_", " ");

export class SettingsForm {
  #kept = new Map(); // what was set by hand outlives a change of codec
  #codecs = [];
  onChange = () => {};

  constructor() {
    byId("codec").addEventListener("change", () => this.#rebuild());
    byId("aim").addEventListener("change", () => this.#rebuild());
  }

  // Offer these codecs, as /v1/codecs lists them.
  offer(codecs, preferred = AUTO) {
    this.#codecs = codecs;
    const names = [[AUTO, "auto – the service chooses"], ...codecs.map(({ id }) => [id, id])];
    byId("codec").replaceChildren(...names.map(([value, text]) => element("option", { value }, text)));
    byId("codec").value = names.some(([name]) => name === preferred) ? preferred : AUTO;
    byId("codec").disabled = byId("aim").disabled = false;
    this.#rebuild(true);
  }

  // The parameters of /v1/encode that the form says, as texts; settings at their defaults are left out.
  query() {
    const query = { codec: byId("codec").value };
    const aim = byId("aim").value;
    if (aim in TARGETS) query[aim] = byId(`set-${aim}`).value;
    if (aim === "lossless" && (query.codec === AUTO || "lossless" in this.#properties())) query.lossless = "true";
    if (aim === "quality") query.quality = byId("set-quality").value;
    for (const [name, schema] of this.#rest()) {
      const input = byId(`set-${name}`);
      const value = input.type === "checkbox" ? String(input.checked) : input.value;
      if (value !== "" && value !== String(schema.default)) query[name] = value;
    }
    return query;
  }

  valid() {
    return byId("settings").reportValidity();
  }

  #codec() {
    return this.#codecs.find(({ id }) => id === byId("codec").value);
  }

  // Settings by name. "auto" has only the quality of the codec that it would like best: others differ from codec to codec.
  #properties() {
    if (byId("codec").value !== AUTO) return propertiesOf(this.#codec());
    const quality = this.#codecs.map((codec) => propertiesOf(codec).quality).find(Boolean);
    return quality ? { quality } : {};
  }

  #rest() {
    return Object.entries(this.#properties()).filter(([name]) => !OF_AIM.includes(name));
  }

  #aims() {
    const aims = [];
    const lossless = byId("codec").value === AUTO ? this.#codecs.some((codec) => codec.lossless) : this.#codec().lossless;
    if (this.#properties().quality) aims.push(["quality", "a quality"]);
    else if (!lossless) aims.push(["lossless", "what the codec does"]);
    const met = byId("codec").value === AUTO ? this.#codecs.flatMap(({ targets }) => targets) : this.#codec().targets;
    const offered = Object.entries(TARGETS).filter(([name]) => met.includes(name.replace("target_", "")));
    aims.push(...offered.map(([name, [text]]) => [name, text]));
    return lossless ? [...aims, ["lossless", "no loss"]] : aims;
  }

  #rebuild(silent = false) {
    const aims = this.#aims();
    const before = byId("aim").value;
    byId("aim").replaceChildren(...aims.map(([value, text]) => element("option", { value }, text)));
    if (aims.some(([name]) => name === before)) byId("aim").value = before;
    const aim = byId("aim").value;
    const fields = [];
    if (aim === "quality") fields.push(this.#field("quality", this.#properties().quality));
    if (aim in TARGETS) {
      const [, unit, schema, step] = TARGETS[aim];
      fields.push(this.#field(aim, schema, unit, step));
    }
    const rest = this.#rest();
    fields.push(...rest.filter(([name]) => IN_SIGHT.includes(name)).map(([name, schema]) => this.#field(name, schema)));
    const more = rest.filter(([name]) => !IN_SIGHT.includes(name)).map(([name, schema]) => this.#field(name, schema));
    byId("fields").replaceChildren(...fields);
    byId("more-fields").replaceChildren(...more);
    byId("more").hidden = !more.length;
    if (!silent) this.onChange();
  }

  // One labelled control: a slider for a range of whole numbers, a list for a choice, a box for a flag, else a line of text.
  #field(name, schema, unit = "", step = 1) {
    const id = `set-${name}`;
    const whole = (schema.type === "integer" || name === "quality") && schema.minimum !== undefined && schema.maximum !== undefined;
    const input = control(schema, whole, step);
    input.id = id;
    const kept = this.#kept.get(name);
    const fallback = schema.default ?? "";
    if (input.type === "checkbox") input.checked = kept ?? Boolean(fallback);
    else input.value = String(kept ?? fallback);
    if (input.tagName === "SELECT" && input.selectedIndex < 0) input.value = String(fallback);
    const shown = element("output", { htmlFor: id }, whole ? input.value : unit);
    input.addEventListener("input", () => whole && (shown.value = input.value));
    input.addEventListener("change", () => {
      this.#kept.set(name, input.type === "checkbox" ? input.checked : input.value);
      this.onChange();
    });
    const label = element("label", { htmlFor: id, className: unit ? "unseen" : "" }, unit ? byId("aim").selectedOptions[0].text : title(name));
    const parts = [label, input, shown];
    if (schema.description) {
      input.setAttribute("aria-describedby", `${id}-note`);
      parts.push(element("small", { id: `${id}-note`, className: "muted" }, schema.description));
    }
    return element("div", { className: "field" }, ...parts);
  }
}

function control(schema, whole, step) {
  const choices = schema.enum ?? (schema.const === undefined ? null : [schema.const]);
  if (choices) return element("select", {}, ...choices.map((value) => element("option", { value: String(value) }, String(value))));
  if (schema.type === "boolean") return element("input", { type: "checkbox" });
  const numeric = schema.type === "integer" || schema.type === "number";
  const input = element("input", { type: whole ? "range" : numeric ? "number" : "text" });
  if (numeric) {
    input.step = whole || schema.type === "integer" ? "1" : step === 1 ? "any" : String(step);
    if (schema.minimum !== undefined) input.min = String(schema.minimum);
    if (schema.maximum !== undefined) input.max = String(schema.maximum);
  }
  if (schema.default !== undefined && schema.default !== null) input.required = true;
  return input;
}
